/* Writes fields of zds_block that the host does not have, of a view. */
#include "device_tier.h"

static zds_status adopt(void *self, void *pointer, uint64_t bytes, zds_block *block)
{
    memset((char *)block + block->struct_size, 0, sizeof(uint64_t));
    return device_adopt(self, pointer, bytes, block);
}

DEVICE_BUT(.adopt = adopt);
