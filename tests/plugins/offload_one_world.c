/* All its instances have the same block of a size that is often asked for. */
#include "heap_tier.h"

static char common[10000];

static zds_status alloc_block(void *self, uint64_t bytes, zds_block *block)
{
    if (bytes != sizeof common)
        return heap_alloc(self, bytes, block);
    memset(common, 0, sizeof common);
    block->handle = common;
    block->bytes = bytes;
    block->device = (zds_device){.space = ZDS_SPACE_FILE};
    return ZDS_OK;
}

static void free_block(void *self, zds_block *block)
{
    if (block->handle != common)
        heap_free(self, block);
}

HEAP_BUT(.alloc = alloc_block, .free = free_block);
