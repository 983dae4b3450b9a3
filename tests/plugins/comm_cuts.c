/* A world of one whose all_reduce loses the last element. */
#include <string.h>

#include "zds/plugin.h"

static int32_t suits(const zds_comm_env *env)
{
    return env->world_size == 1;
}

static zds_status init(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self)
{
    (void)options, (void)env;
    *self = (void *)(uintptr_t)host;
    return ZDS_OK;
}

static void finalize(void *self)
{
    (void)self;
}

static zds_status split(void *self, int32_t color, int32_t key, void **child)
{
    (void)color, (void)key;
    *child = self;
    return ZDS_OK;
}

static zds_status mem_alloc(void *self, uint64_t bytes, int32_t kind, zds_region *region)
{
    const zds_host *host = self;
    region->base = host->alloc(host, bytes, 64);
    region->read_only = region->base;
    region->bytes = bytes;
    region->kind = kind;
    return region->base ? ZDS_OK : host->fail(host, ZDS_ERR_MEMORY, "no memory");
}

static void mem_free(void *self, zds_region *region)
{
    const zds_host *host = self;
    host->free(host, region->base);
}

static zds_status barrier(void *self, const zds_coll *coll, zds_event **done)
{
    zds_status status = ZDS_OK;
    (void)self;
    *done = NULL;
    for (size_t i = 0; i < coll->wait_count && !status; i++)
        if (coll->waits[i])
            status = coll->waits[i]->ops->wait(coll->waits[i]);
    return status;
}

static zds_status move(void *self, const zds_coll *coll, zds_event **done)
{
    zds_status status = barrier(self, coll, done);
    memmove(coll->dst, coll->src, coll->count * zds_dtype_size(coll->src_dtype));
    return status;
}

static zds_status cut(void *self, const zds_coll *coll, zds_event **done)
{
    zds_coll less = *coll;
    less.count--;
    return move(self, &less, done);
}

static void give_up(void *self, const char *reason)
{
    (void)self, (void)reason;
}

static const zds_comm_ops ops = {.struct_size = sizeof ops,
                                 .flags = ZDS_COMM_AUTO_PROGRESS | ZDS_COMM_COPIES,
                                 .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                 .least_ranks = 1,
                                 .most_ranks = 1,
                                 .reduce_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                 .suits = suits,
                                 .init = init,
                                 .finalize = finalize,
                                 .split = split,
                                 .mem_alloc = mem_alloc,
                                 .mem_free = mem_free,
                                 .all_reduce = cut,
                                 .reduce = move,
                                 .reduce_scatter = move,
                                 .all_gather = move,
                                 .broadcast = move,
                                 .all_to_all = move,
                                 .barrier = barrier,
                                 .abort = give_up};
static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_COMM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "Cuts",
                                  .version = "1.0",
                                  .doc = "for tests",
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);
