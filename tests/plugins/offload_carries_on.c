/* Copies although what it waits for has failed. */
#include "heap_tier.h"

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    (void)self;
    *done = NULL;
    if (heap_wait(c) != ZDS_OK || c->bytes)
        memcpy(heap_at(&c->to), heap_at(&c->from), c->bytes);
    return ZDS_OK;
}

HEAP_BUT(.copy = copy);
