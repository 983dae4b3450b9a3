/* Reads one word more than it is asked for. */
#include "heap_tier.h"

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    zds_status status = heap_copy(self, c, done);
    if (!heap_is_write(c))
        memset(heap_at(&c->to) + c->bytes, 0, 8);
    return status;
}

HEAP_BUT(.copy = copy);
