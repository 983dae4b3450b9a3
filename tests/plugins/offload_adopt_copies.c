/* Makes a copy of what it should adopt. */
#include "device_tier.h"

static zds_status adopt(void *self, void *pointer, uint64_t bytes, zds_block *block)
{
    zds_status status = device_alloc(self, bytes, block);
    if (!status)
        memcpy(block->pointer, pointer, bytes);
    return status;
}

DEVICE_BUT(.adopt = adopt);
