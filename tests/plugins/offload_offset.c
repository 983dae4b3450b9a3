/* Writes to the beginning of a block, whatever the offset. */
#include "heap_tier.h"

static zds_status write_block(void *self, const zds_copy *copy, zds_event **done)
{
    (void)self;
    *done = NULL;
    if (heap_wait(copy) == ZDS_OK)
        memcpy(copy->block->handle, copy->memory, copy->bytes);
    return ZDS_OK;
}

HEAP_BUT(.write = write_block);
