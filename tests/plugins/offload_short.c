/* Moves whole words alone. */
#include "heap_tier.h"

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    zds_copy other = *c;
    if (heap_is_write(c))
        other.bytes = c->bytes / 8 * 8;
    return heap_copy(self, &other, done);
}

HEAP_BUT(.copy = copy);
