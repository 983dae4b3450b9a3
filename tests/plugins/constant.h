/* A schedule that leaves the rate as it is; each plugin that includes it has one fault. */
#ifndef TESTS_PLUGINS_CONSTANT_H
#define TESTS_PLUGINS_CONSTANT_H

#include <math.h>

#include "zds/plugin.h"

typedef struct constant_self {
    const zds_host *host;
    const zds_hyper *base;
    size_t groups, stride;
    int64_t calls;
} constant_self;

static inline zds_status constant_create(const zds_host *host, const void *options,
                                         const zds_sched_env *env, void **self)
{
    (void)options;
    constant_self *made = host->alloc(host, sizeof *made, 0);
    if (!made)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a schedule");
    *made = (constant_self){host, env->base, env->group_count, env->hyper_stride, 0};
    *self = made;
    return ZDS_OK;
}

static inline void constant_destroy(void *self)
{
    constant_self *own = self;
    own->host->free(own->host, own);
}

static inline zds_status constant_fill(const constant_self *own, zds_sched_value *values,
                                       size_t stride, double factor)
{
    for (size_t g = 0; g < own->groups; g++) {
        zds_sched_value *v = (void *)((char *)values + g * stride);
        const zds_hyper *base = (const void *)((const char *)own->base + g * own->stride);
        v->mask = ZDS_SCHED_LR;
        v->hyper.lr = base->lr * factor;
    }
    return ZDS_OK;
}

static inline zds_status constant_at(void *self, int64_t moves, zds_sched_value *values,
                                     size_t value_stride)
{
    (void)moves;
    return constant_fill(self, values, value_stride, 1);
}

/* The whole plugin, with what differs. */
#define CONSTANT_BUT(...)                                                                          \
    static const zds_sched_ops ops = {.struct_size = sizeof ops,                                   \
                                      .create = constant_create,                                   \
                                      .destroy = constant_destroy,                                 \
                                      .at = constant_at,                                           \
                                      __VA_ARGS__};                                                \
    static const zds_plugin plugin = {.struct_size = sizeof plugin,                                \
                                      .kind = ZDS_KIND_SCHED,                                      \
                                      .abi_minor = ZDS_ABI_MINOR,                                  \
                                      .name = "Constant",                                          \
                                      .version = "1.0",                                            \
                                      .doc = "for tests",                                          \
                                      .ops = &ops};                                                \
    ZDS_PLUGINS(&plugin)

#endif
