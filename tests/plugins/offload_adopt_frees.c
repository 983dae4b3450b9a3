/* Takes memory that it adopted for its own. */
#include "device_tier.h"

#include <sys/mman.h>

static void free_block(void *self, zds_block *block)
{
    if (!block->handle && block->pointer)
        munmap((void *)((uintptr_t)block->pointer & ~(uintptr_t)4095), 4096);
    device_free(self, block);
}

DEVICE_BUT(.free = free_block);
