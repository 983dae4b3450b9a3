/* Writes before its source is ready. */
#include "heap_tier.h"

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    if (!heap_is_write(c))
        return heap_copy(self, c, done);
    *done = NULL;
    memcpy(heap_at(&c->to), heap_at(&c->from), c->bytes);
    return ZDS_OK;
}

HEAP_BUT(.copy = copy);
