/* A communication plugin that counts: it passes every operation on to the plugin whose file
 * ZDS_TEST_COUNT names, and logs at the end how often each was asked for and how many bytes one
 * rank sent to each other by it. */
#ifndef TESTS_PLUGINS_COUNT_H
#define TESTS_PLUGINS_COUNT_H

#include <dlfcn.h>
#include <stdlib.h>

#include "zds/plugin.h"

enum { ALL_REDUCE, REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, ALL_TO_ALL, KINDS };

static const zds_comm_ops *inner;
static const zds_host *told;
static uint64_t calls[KINDS], bytes[KINDS];

static zds_status init(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self)
{
    (void)options; /* which are not the inner one's */
    const char *file = getenv("ZDS_TEST_COUNT");
    void *library = file ? dlopen(file, RTLD_NOW | RTLD_LOCAL) : NULL;
    const zds_plugin *const *list = library ? dlsym(library, "zds_plugin_v1") : NULL;
    if (!list)
        return host->fail(host, ZDS_ERR_NOT_FOUND, "ZDS_TEST_COUNT names no plugin");
    inner = list[0]->ops;
    told = host;
    zds_comm_env here = *env; /* where ranks play several nodes */
    here.local_rank = env->rank;
    here.local_world_size = env->world_size;
    return inner->init(host, NULL, &here, self);
}

static void finalize(void *self)
{
    static const char *const names[KINDS] = {"all_reduce", "reduce",    "reduce_scatter",
                                             "all_gather", "broadcast", "all_to_all"};
    for (int k = 0; k < KINDS; k++)
        told->log(told, ZDS_LOG_WARNING, "count %s %llu %llu", names[k],
                  (unsigned long long)calls[k], (unsigned long long)bytes[k]);
    inner->finalize(self);
}

static int32_t suits(const zds_comm_env *env)
{
    (void)env;
    return 0; /* only where the config names it */
}

#define COUNTED(kind, name)                                                                        \
    static zds_status name(void *self, const zds_coll *coll, zds_event **done)                     \
    {                                                                                              \
        calls[kind]++;                                                                             \
        bytes[kind] += coll->count * zds_dtype_size(coll->src_dtype);                              \
        return inner->name(self, coll, done);                                                      \
    }
COUNTED(ALL_REDUCE, all_reduce)
COUNTED(REDUCE, reduce)
COUNTED(REDUCE_SCATTER, reduce_scatter)
COUNTED(ALL_GATHER, all_gather)
COUNTED(BROADCAST, broadcast)
COUNTED(ALL_TO_ALL, all_to_all)

static zds_status split(void *self, int32_t color, int32_t key, void **child)
{
    return inner->split(self, color, key, child);
}

static zds_status mem_alloc(void *self, uint64_t size, int32_t kind, zds_region *region)
{
    return inner->mem_alloc(self, size, kind, region);
}

static void mem_free(void *self, zds_region *region)
{
    inner->mem_free(self, region);
}

static zds_status send_to(void *self, const zds_coll *coll, zds_event **done)
{
    return inner->send(self, coll, done);
}

static zds_status recv_from(void *self, const zds_coll *coll, zds_event **done)
{
    return inner->recv(self, coll, done);
}

static zds_status barrier(void *self, const zds_coll *coll, zds_event **done)
{
    return inner->barrier(self, coll, done);
}

static zds_status progress(void *self)
{
    return inner->progress ? inner->progress(self) : ZDS_OK;
}

static void abort_all(void *self, const char *reason)
{
    inner->abort(self, reason);
}

#define COUNT_OPS                                                                                  \
    .struct_size = sizeof(zds_comm_ops), .least_ranks = 1,                                         \
    .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),                                                       \
    .reduce_dtypes = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16), .suits = suits,             \
    .init = init, .finalize = finalize, .split = split, .mem_alloc = mem_alloc,                    \
    .mem_free = mem_free, .all_reduce = all_reduce, .reduce = reduce,                              \
    .reduce_scatter = reduce_scatter, .all_gather = all_gather, .broadcast = broadcast,            \
    .all_to_all = all_to_all, .send = send_to, .recv = recv_from, .barrier = barrier,              \
    .progress = progress, .abort = abort_all

static const zds_comm_ops ops = {COUNT_OPS, .flags = ZDS_COMM_DETERMINISTIC | ZDS_COMM_COPIES};
static const zds_plugin counting_plugin = {.struct_size = sizeof counting_plugin,
                                           .kind = ZDS_KIND_COMM,
                                           .name = "count",
                                           .version = "1",
                                           .doc = "counts what another plugin carries",
                                           .ops = &ops};

#endif
