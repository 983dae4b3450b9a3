/* A memory tier whose blocks hold what was there before. */
#include <stdlib.h>
#include <string.h>

#include "zds/plugin.h"

static zds_status open_tier(const zds_host *host, const void *options, const zds_offload_env *env,
                            void **self)
{
    (void)options, (void)env;
    *self = (void *)(uintptr_t)host;
    return ZDS_OK;
}

static void close_tier(void *self)
{
    (void)self;
}

static zds_status alloc_block(void *self, uint64_t bytes, zds_block *block)
{
    const zds_host *host = self;
    if (bytes > 1u << 30 || posix_memalign(&block->pointer, 64, bytes + 64) != 0)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory");
    memset(block->pointer, 0x55, bytes);
    block->bytes = bytes;
    block->space = ZDS_SPACE_HOST;
    return ZDS_OK;
}

static void free_block(void *self, zds_block *block)
{
    (void)self;
    free(block->pointer);
}

static const zds_offload_ops ops = {.struct_size = sizeof ops,
                                    .flags = ZDS_OFFLOAD_DIRECT,
                                    .space = ZDS_SPACE_HOST,
                                    .alignment = 1,
                                    .open = open_tier,
                                    .close = close_tier,
                                    .alloc = alloc_block,
                                    .free = free_block};
static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_OFFLOAD,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "Dirty",
                                  .version = "1.0",
                                  .doc = "for tests",
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);
