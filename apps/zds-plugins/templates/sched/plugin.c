/* @NAME@: a learning rate schedule for zds. */
#include <math.h>

#include "zds/plugin.h"

/* === options: the keys of `params` in ds_config === */

typedef struct options {
    int64_t total_steps; /* INT64_MIN: null, as the run says */
    double end_factor;
} options;

static const zds_option table[] = {
    {.name = "total_steps",
     .type = ZDS_OPTION_INT,
     .flags = ZDS_OPTION_NULLABLE,
     .offset = offsetof(options, total_steps),
     .default_value = "null",
     .min = 1,
     .max = INFINITY,
     .doc = "steps until the end is reached; null: those of the run"},
    {.name = "end_factor",
     .type = ZDS_OPTION_FLOAT,
     .offset = offsetof(options, end_factor),
     .default_value = "0",
     .max = 1,
     .doc = "the last rate, as a part of the optimizer's"},
};

/* === an instance === */

/* Options and base values live as long as the instance, the rest of `env` does not. */
typedef struct schedule {
    const zds_host *host;
    double total, end_factor;
    size_t group_count, hyper_stride;
    const zds_hyper *base;
} schedule;

static zds_status create(const zds_host *host, const void *opts, const zds_sched_env *env,
                         void **self)
{
    const options *o = opts;
    const int64_t total = o->total_steps != INT64_MIN ? o->total_steps : env->total_steps;
    if (total < 1)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "the run does not say how long it is; write total_steps into the params");
    schedule *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a schedule");
    *s = (schedule){host,     (double)total, o->end_factor, env->group_count, env->hyper_stride,
                    env->base};
    *self = s;
    return ZDS_OK;
}

static void destroy(void *self)
{
    schedule *s = self;
    s->host->free(s->host, s);
}

/* What the rate is multiplied by after so many moves. */
static double factor(const schedule *s, double moves)
{
    const double part = fmin(moves / s->total, 1);
    return 1 + (s->end_factor - 1) * part;
}

/* A function of the moves alone: it is asked in any order. */
static zds_status at(void *self, int64_t moves, zds_sched_value *values, size_t value_stride)
{
    const schedule *s = self;
    for (size_t g = 0; g < s->group_count; g++) {
        const zds_hyper *base = (const void *)((const char *)s->base + g * s->hyper_stride);
        zds_sched_value *v = (void *)((char *)values + g * value_stride);
        v->mask = ZDS_SCHED_LR;
        v->hyper.lr = base->lr * factor(s, (double)moves);
    }
    return ZDS_OK;
}

/* === what zds sees === */

static const zds_sched_ops ops = {
    .struct_size = sizeof ops, .create = create, .destroy = destroy, .at = at};

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_SCHED,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "@NAME@",
                                  .version = "0.1",
                                  .doc = "falls along a line",
                                  ZDS_OPTION_TABLE(table, options),
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);
