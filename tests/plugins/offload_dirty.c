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
    if (bytes > 1u << 30 || (bytes && posix_memalign(&block->pointer, 64, bytes) != 0))
        return host->fail(host, ZDS_ERR_MEMORY, "no memory");
    if (bytes)
        memset(block->pointer, 0x55, bytes);
    block->bytes = bytes;
    block->handle = block->pointer;
    block->device = (zds_device){.space = ZDS_SPACE_HOST};
    return ZDS_OK;
}

static void free_block(void *self, zds_block *block)
{
    (void)self;
    if (block->handle)
        free(block->pointer);
}

static zds_status adopt_block(void *self, void *pointer, uint64_t bytes, zds_block *block)
{
    (void)self;
    block->pointer = pointer;
    block->bytes = bytes;
    return ZDS_OK;
}

static zds_status query(void *self, zds_offload_info *info)
{
    (void)self;
    info->alignment = 64;
    info->reaches = ZDS_SPACE_BIT(ZDS_SPACE_HOST);
    return ZDS_OK;
}

static const zds_offload_ops ops = {.struct_size = sizeof ops,
                                    .flags = ZDS_OFFLOAD_DIRECT,
                                    .space = ZDS_SPACE_HOST,
                                    .open = open_tier,
                                    .close = close_tier,
                                    .query = query,
                                    .alloc = alloc_block,
                                    .free = free_block,
                                    .adopt = adopt_block};
static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_OFFLOAD,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "Dirty",
                                  .version = "1.0",
                                  .doc = "for tests",
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);
