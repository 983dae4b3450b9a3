/* Moves whole words alone. */
#include "heap_tier.h"

static zds_status write_block(void *self, const zds_copy *copy, zds_event **done)
{
    (void)self;
    *done = NULL;
    if (heap_wait(copy) == ZDS_OK)
        memcpy(heap_at(copy), copy->memory, copy->bytes / 8 * 8);
    return ZDS_OK;
}

HEAP_BUT(.write = write_block);
