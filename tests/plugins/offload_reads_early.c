/* Reads into memory that somebody else still uses. */
#include "heap_tier.h"

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    if (heap_is_write(c))
        return heap_copy(self, c, done);
    *done = NULL;
    memcpy(heap_at(&c->to), heap_at(&c->from), c->bytes);
    return heap_wait(c);
}

HEAP_BUT(.copy = copy);
