/* Grants whatever is asked for. */
#include "heap_tier.h"

static zds_status alloc_block(void *self, uint64_t bytes, zds_block *block)
{
    zds_status status = heap_alloc(self, bytes < 1u << 30 ? bytes : 1, block);
    block->bytes = bytes;
    return status;
}

HEAP_BUT(.alloc = alloc_block);
