/* Memory tiers on the host's heap, right in every way: in place, page-locked by its own word, and
 * one that is only copied. Each writes what it is told when it is opened into the file that
 * ZDS_TEST_TIER_ENV names. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zds/plugin.h"

typedef struct tier {
    const zds_host *host;
    zds_space space;
} tier;

static zds_status open_in(zds_space space, const zds_host *host, const zds_offload_env *env,
                          void **self)
{
    const char *name = getenv("ZDS_TEST_TIER_ENV");
    FILE *file = name ? fopen(name, "we") : NULL;
    tier *t = host->alloc(host, sizeof *t, 0);
    if (!t)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory");
    *t = (tier){host, space};
    *self = t;
    if (!file)
        return ZDS_OK;
    fprintf(file, "%d %d %" PRIu64 " %s", env->device, env->pin_memory, env->capacity_hint,
            env->path ? env->path : "-");
    return fclose(file) == 0 ? ZDS_OK : host->fail(host, ZDS_ERR_IO, "%s cannot be written", name);
}

static zds_status open_host(const zds_host *host, const void *options, const zds_offload_env *env,
                            void **self)
{
    (void)options;
    return open_in(ZDS_SPACE_HOST, host, env, self);
}

static zds_status open_pinned(const zds_host *host, const void *options, const zds_offload_env *env,
                              void **self)
{
    (void)options;
    return open_in(ZDS_SPACE_HOST_PINNED, host, env, self);
}

static void close_tier(void *self)
{
    tier *t = self;
    t->host->free(t->host, t);
}

static zds_status query(void *self, zds_offload_info *info)
{
    const tier *t = self;
    info->device = (zds_device){.space = t->space};
    info->alignment = 64;
    info->reaches = ZDS_SPACE_BIT(ZDS_SPACE_HOST);
    return ZDS_OK;
}

static zds_status alloc_block(void *self, uint64_t bytes, zds_block *block)
{
    const tier *t = self;
    block->pointer = bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
    if (bytes && !block->pointer)
        return t->host->fail(t->host, ZDS_ERR_MEMORY, "no memory");
    if (bytes)
        memset(block->pointer, 0, bytes);
    block->handle = block->pointer;
    block->bytes = bytes;
    block->device = (zds_device){.space = t->space};
    return ZDS_OK;
}

static void free_block(void *self, zds_block *block)
{
    (void)self;
    free(block->handle);
}

static zds_status adopt(void *self, void *pointer, uint64_t bytes, zds_block *block)
{
    const tier *t = self;
    block->pointer = pointer;
    block->handle = NULL;
    block->bytes = bytes;
    block->device = (zds_device){.space = t->space};
    return ZDS_OK;
}

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    (void)self;
    if (done)
        *done = NULL;
    memcpy(zds_end_address(&c->to), zds_end_address(&c->from), c->bytes);
    return ZDS_OK;
}

#define TIER(NAME, SPACE, OPEN, ...)                                                               \
    static const zds_offload_ops NAME##_ops = {.struct_size = sizeof NAME##_ops,                   \
                                               .space = SPACE,                                     \
                                               .open = OPEN,                                       \
                                               .close = close_tier,                                \
                                               .query = query,                                     \
                                               .alloc = alloc_block,                               \
                                               .free = free_block,                                 \
                                               .adopt = adopt,                                     \
                                               __VA_ARGS__};                                       \
    static const zds_plugin NAME = {.struct_size = sizeof NAME,                                    \
                                    .kind = ZDS_KIND_OFFLOAD,                                      \
                                    .abi_minor = ZDS_ABI_MINOR,                                    \
                                    .name = #NAME,                                                 \
                                    .version = "1.0",                                              \
                                    .doc = "for tests",                                            \
                                    .ops = &NAME##_ops}

TIER(lends, ZDS_SPACE_HOST, open_host, .flags = ZDS_OFFLOAD_DIRECT);
TIER(lends_pinned, ZDS_SPACE_HOST_PINNED, open_pinned, .flags = ZDS_OFFLOAD_DIRECT);
TIER(lends_copies, ZDS_SPACE_HOST, open_host, .copy = copy);

ZDS_PLUGINS(&lends, &lends_pinned, &lends_copies);
