/* What schedules share: the groups that they set rates for, lists of one value a group, the life of
 * an instance, the descriptor. An instance is a struct of the schedule's own that begins with
 * sched_groups. */
#ifndef PLUGINS_COMMON_SCHED_H
#define PLUGINS_COMMON_SCHED_H

#include <stddef.h>

#include "zds/plugin.h"

typedef struct sched_groups {
    const zds_host *host;
    size_t count;
    size_t list_count; /* values of a list of one a group */
    size_t stride;
    const zds_hyper *base;
    const uint32_t *declared; /* NULL from a host that splits no groups for schedules */
} sched_groups;

static inline sched_groups sched_groups_of(const zds_host *host, const zds_sched_env *env)
{
    bool split = ZDS_HAS(env, declared_count) && env->declared;
    return (sched_groups){.host = host,
                          .count = env->group_count,
                          .list_count = split ? env->declared_count : env->group_count,
                          .stride = env->hyper_stride,
                          .base = env->base,
                          .declared = split ? env->declared : NULL};
}

/* What the optimizer's options, or the group's own, say. */
static inline const zds_hyper *sched_base(const sched_groups *g, size_t group)
{
    return (const zds_hyper *)(const void *)((const char *)g->base + group * g->stride);
}

static inline zds_sched_value *sched_value(zds_sched_value *values, size_t stride, size_t group)
{
    return (zds_sched_value *)(void *)((char *)values + group * stride);
}

/* An option of FLOAT_LIST: one value for all groups, one a group, or, where it is null, none. */
static inline zds_status sched_check_list(const sched_groups *g, const char *name,
                                          const zds_float_list *list)
{
    if (list->count <= 1 || list->count == g->list_count)
        return ZDS_OK;
    return g->host->fail(g->host, ZDS_ERR_CONFIG,
                         "%s has %zu values for %zu parameter groups; write one value for all, or "
                         "one a group",
                         name, list->count, g->list_count);
}

static inline double sched_list_at(const sched_groups *g, const zds_float_list *list, size_t group,
                                   double absent)
{
    if (list->count == 0)
        return absent;
    size_t number = g->declared ? g->declared[group] : group;
    return list->values[list->count == 1 ? 0 : number];
}

/* Zeroed, but for the groups. Goes back with sched_destroy. */
static inline zds_status sched_create(const sched_groups *g, size_t bytes, void **self)
{
    sched_groups *made = g->host->alloc(g->host, bytes, 0);
    if (!made)
        return g->host->fail(g->host, ZDS_ERR_MEMORY, "no memory for a schedule");
    *made = *g;
    *self = made;
    return ZDS_OK;
}

static inline void sched_destroy(void *self)
{
    sched_groups *g = self;
    g->host->free(g->host, g);
}

/* The option by which DeepSpeed's schedules start later. */
#define SCHED_LAST_BATCH_ITERATION(options, kept)                                                  \
    {                                                                                              \
        .name = "last_batch_iteration", .type = ZDS_OPTION_INT,                                    \
        .offset = offsetof(options, last_batch_iteration), .default_value = "-1", .min = -1,       \
        .max = INFINITY,                                                                           \
        .doc = "steps done before, less one; other than -1, the first step keeps the "             \
               "optimizer's " kept                                                                 \
    }

#define SCHED_PLUGIN(type, table, rows, options_struct, vtable, text)                              \
    {                                                                                              \
        .struct_size = sizeof(zds_plugin), .kind = ZDS_KIND_SCHED, .abi_minor = ZDS_ABI_MINOR,     \
        .name = type, .version = "1.0", .doc = text, .options = table,                             \
        .option_stride = sizeof(zds_option), .option_count = rows,                                 \
        .options_size = sizeof(options_struct), .ops = &vtable                                     \
    }
#define SCHED_ROWS(table) (sizeof(table) / sizeof(table)[0])

#endif
