/* Frees no block. */
#include "heap_tier.h"

static void free_block(void *self, zds_block *block)
{
    (void)self, (void)block;
}

HEAP_BUT(.free = free_block);
