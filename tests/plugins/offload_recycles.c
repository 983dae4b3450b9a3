/* Gives out blocks with what was in them before. */
#include "heap_tier.h"

static char kept[65536];

static zds_status alloc_block(void *self, uint64_t bytes, zds_block *block)
{
    zds_status status = heap_alloc(self, bytes, block);
    if (!status && bytes == sizeof kept)
        memcpy(block->handle, kept, sizeof kept);
    return status;
}

static void free_block(void *self, zds_block *block)
{
    if (block->bytes == sizeof kept)
        memcpy(kept, block->handle, sizeof kept);
    heap_free(self, block);
}

HEAP_BUT(.alloc = alloc_block, .free = free_block);
