/* A memory tier that keeps its blocks on the heap and shows nobody where, right in every way but
 * that it takes no folder; each plugin that includes it has one fault. */
#ifndef TESTS_PLUGINS_HEAP_TIER_H
#define TESTS_PLUGINS_HEAP_TIER_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "zds/plugin.h"

typedef struct heap {
    const zds_host *host;
    char folder[256];
    int64_t counter; /* of a faulty one */
} heap;

static inline zds_status heap_open(const zds_host *host, const void *options,
                                   const zds_offload_env *env, void **self)
{
    (void)options;
    if (env->device != -1)
        return host->fail(host, ZDS_ERR_INVALID, "device %d, where there is none", env->device);
    if (!env->path || access(env->path, W_OK) != 0 ||
        strlen(env->path) >= sizeof((heap *)0)->folder)
        return host->fail(host, ZDS_ERR_IO, "a folder is needed");
    heap *h = host->alloc(host, sizeof *h, 0);
    if (!h)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory");
    h->host = host;
    strcpy(h->folder, env->path);
    *self = h;
    return ZDS_OK;
}

static inline void heap_close(void *self)
{
    heap *h = self;
    h->host->free(h->host, h);
}

static inline zds_status heap_query(void *self, zds_offload_info *info)
{
    (void)self;
    info->device = (zds_device){.space = ZDS_SPACE_FILE};
    info->alignment = 1;
    info->reaches = ZDS_SPACE_BIT(ZDS_SPACE_HOST);
    return ZDS_OK;
}

static inline zds_status heap_alloc(void *self, uint64_t bytes, zds_block *block)
{
    const heap *h = self;
    block->handle = bytes < 1u << 30 ? calloc(1, bytes + 1) : NULL;
    if (!block->handle)
        return h->host->fail(h->host, ZDS_ERR_MEMORY, "no room for %llu bytes",
                             (unsigned long long)bytes);
    block->pointer = NULL;
    block->bytes = bytes;
    block->device = (zds_device){.space = ZDS_SPACE_FILE};
    return ZDS_OK;
}

static inline void heap_free(void *self, zds_block *block)
{
    (void)self;
    free(block->handle);
}

static inline char *heap_at(const zds_end *end)
{
    return (char *)(end->block ? end->block->handle : end->pointer) + end->offset;
}

/* From memory to a block. */
static inline bool heap_is_write(const zds_copy *copy)
{
    return copy->to.block != NULL;
}

static inline zds_status heap_wait(const zds_copy *copy)
{
    zds_status status = ZDS_OK;
    for (size_t i = 0; i < copy->wait_count && !status; i++)
        if (copy->waits[i])
            status = copy->waits[i]->ops->wait(copy->waits[i]);
    return status;
}

static inline zds_status heap_copy(void *self, const zds_copy *copy, zds_event **done)
{
    (void)self;
    *done = NULL;
    zds_status status = heap_wait(copy);
    if (!status)
        memmove(heap_at(&copy->to), heap_at(&copy->from), copy->bytes);
    return status;
}

/* The whole plugin, with what differs. */
#define HEAP_BUT(...)                                                                              \
    static const zds_offload_ops ops = {.struct_size = sizeof ops,                                 \
                                        .space = ZDS_SPACE_FILE,                                   \
                                        .open = heap_open,                                         \
                                        .close = heap_close,                                       \
                                        .query = heap_query,                                       \
                                        .alloc = heap_alloc,                                       \
                                        .free = heap_free,                                         \
                                        .copy = heap_copy,                                         \
                                        __VA_ARGS__};                                              \
    static const zds_plugin plugin = {.struct_size = sizeof plugin,                                \
                                      .kind = ZDS_KIND_OFFLOAD,                                    \
                                      .abi_minor = ZDS_ABI_MINOR,                                  \
                                      .name = "Heap",                                              \
                                      .version = "1.0",                                            \
                                      .doc = "for tests",                                          \
                                      .ops = &ops};                                                \
    ZDS_PLUGINS(&plugin)

#endif
