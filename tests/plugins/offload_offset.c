/* Writes to the beginning of a block, whatever the offset. */
#include "heap_tier.h"

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    zds_copy other = *c;
    if (heap_is_write(c))
        other.to.offset = 0;
    return heap_copy(self, &other, done);
}

HEAP_BUT(.copy = copy);
