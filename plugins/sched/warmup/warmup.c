/* WarmupLR, WarmupDecayLR and WarmupCosineLR: a rate that rises over the first steps, then stays,
 * falls along a line, or falls along half a cosine. As DeepSpeed 0.19's runtime/lr_schedules.py
 * computes them, off-by-one included. */
#include <math.h>

#include "common/sched.h"

enum { WARMUP_LOG = 0, WARMUP_LINEAR = 1 };
enum after { AFTER_CONSTANT, AFTER_LINEAR, AFTER_COSINE };

/* One struct for the three; each table has rows for the fields that its type reads. */
typedef struct warmup_options {
    zds_float_list warmup_min_lr, warmup_max_lr;
    double warmup_min_ratio, cos_min_ratio;
    int64_t warmup_num_steps, total_num_steps, warmup_type, last_batch_iteration;
} warmup_options;

typedef struct warmup_instance {
    sched_groups groups;
    const warmup_options *options;
    enum after after;
    int64_t warmup; /* steps */
} warmup_instance;

#define AT(field) offsetof(warmup_options, field)

#define WARMUP_LR_ROWS(max_flags, max_default, max_doc)                                            \
    {.name = "warmup_min_lr",                                                                      \
     .type = ZDS_OPTION_FLOAT_LIST,                                                                \
     .offset = AT(warmup_min_lr),                                                                  \
     .default_value = "0",                                                                         \
     .min = 0,                                                                                     \
     .max = INFINITY,                                                                              \
     .auto_from = "0",                                                                             \
     .doc = "rate at the start; one for all groups, or a list of one a group"},                    \
    {                                                                                              \
        .name = "warmup_max_lr", .type = ZDS_OPTION_FLOAT_LIST, .flags = max_flags,                \
        .offset = AT(warmup_max_lr), .default_value = max_default, .min = 0, .max = INFINITY,      \
        .auto_from = "learning_rate", .doc = max_doc                                               \
    }

#define WARMUP_ROWS                                                                                \
    {.name = "warmup_num_steps",                                                                   \
     .type = ZDS_OPTION_INT,                                                                       \
     .offset = AT(warmup_num_steps),                                                               \
     .default_value = "1000",                                                                      \
     .min = 1,                                                                                     \
     .max = INFINITY,                                                                              \
     .auto_from = "warmup_steps",                                                                  \
     .doc = "steps over which the rate rises; 1 is taken as 2"},                                   \
        {.name = "warmup_type",                                                                    \
         .type = ZDS_OPTION_ENUM,                                                                  \
         .offset = AT(warmup_type),                                                                \
         .default_value = "\"log\"",                                                               \
         .choices = "log|linear",                                                                  \
         .doc = "how it rises: with the logarithm of the step, or along a line"},                  \
        SCHED_LAST_BATCH_ITERATION(warmup_options, "rate")

#define TOTAL_ROW                                                                                  \
    {                                                                                              \
        .name = "total_num_steps", .type = ZDS_OPTION_INT, .flags = ZDS_OPTION_REQUIRED,           \
        .offset = AT(total_num_steps), .min = -INFINITY, .max = INFINITY,                          \
        .auto_from = "num_training_steps", .doc = "steps of the whole run"                         \
    }

static const zds_option warmup_table[] = {
    WARMUP_LR_ROWS(ZDS_OPTION_NULLABLE, "null",
                   "rate after the warm-up, one or a list; null: the optimizer's lr"),
    WARMUP_ROWS,
};

static const zds_option decay_table[] = {
    TOTAL_ROW,
    WARMUP_LR_ROWS(0, "0.001", "rate after the warm-up, one or a list"),
    WARMUP_ROWS,
};

static const zds_option cosine_table[] = {
    TOTAL_ROW,
    {.name = "warmup_min_ratio",
     .type = ZDS_OPTION_FLOAT,
     .offset = AT(warmup_min_ratio),
     .default_value = "0",
     .min = -INFINITY,
     .max = INFINITY,
     .doc = "rate at the start over the optimizer's lr"},
    WARMUP_ROWS,
    {.name = "cos_min_ratio",
     .type = ZDS_OPTION_FLOAT,
     .offset = AT(cos_min_ratio),
     .default_value = "0.0001",
     .min = -INFINITY,
     .max = INFINITY,
     .doc = "rate at the end over the optimizer's lr"},
};

static zds_status create(const zds_host *host, const warmup_options *o, const zds_sched_env *env,
                         enum after after, void **self)
{
    sched_groups groups = sched_groups_of(host, env);
    zds_status status = sched_check_list(&groups, "warmup_min_lr", &o->warmup_min_lr);
    if (!status)
        status = sched_check_list(&groups, "warmup_max_lr", &o->warmup_max_lr);
    if (!status)
        status = sched_create(&groups, sizeof(warmup_instance), self);
    if (status)
        return status;
    warmup_instance *w = *self;
    w->options = o;
    w->after = after;
    w->warmup = o->warmup_num_steps < 2 ? 2 : o->warmup_num_steps;
    if (after != AFTER_CONSTANT && o->total_num_steps < w->warmup)
        host->log(host, ZDS_LOG_WARNING, "total_num_steps %lld is less than warmup_num_steps %lld",
                  (long long)o->total_num_steps, (long long)w->warmup);
    return ZDS_OK;
}

static zds_status warmup_create(const zds_host *host, const void *options, const zds_sched_env *env,
                                void **self)
{
    return create(host, options, env, AFTER_CONSTANT, self);
}

static zds_status decay_create(const zds_host *host, const void *options, const zds_sched_env *env,
                               void **self)
{
    return create(host, options, env, AFTER_LINEAR, self);
}

static zds_status cosine_create(const zds_host *host, const void *options, const zds_sched_env *env,
                                void **self)
{
    return create(host, options, env, AFTER_COSINE, self);
}

/* How far the warm-up is, from 0 to 1. */
static double rise(const warmup_instance *w, int64_t iteration)
{
    if (w->options->warmup_type == WARMUP_LINEAR)
        return (double)iteration / (double)w->warmup;
    return 1.0 / log((double)w->warmup) * log((double)iteration + 1);
}

/* The part of the way from the least to the largest rate. */
static double gamma_of(const warmup_instance *w, int64_t iteration)
{
    double total = (double)w->options->total_num_steps, warmup = (double)w->warmup;
    if (iteration < w->warmup)
        return rise(w, iteration);
    if (w->after == AFTER_CONSTANT)
        return 1;
    return fmax(0, (total - (double)iteration) / fmax(1, total - warmup));
}

/* The rate over the optimizer's, with a cosine. */
static double cosine_ratio(const warmup_instance *w, int64_t iteration)
{
    const warmup_options *o = w->options;
    if (iteration < w->warmup)
        return o->warmup_min_ratio + rise(w, iteration) * (1 - o->warmup_min_ratio);
    double done = (double)(iteration - w->warmup + 1);
    double all = fmax(1, (double)(o->total_num_steps - w->warmup));
    double half = (1 + cos(M_PI * fmin(1, done / all))) / 2;
    return fmax(0, o->cos_min_ratio + (1 - o->cos_min_ratio) * half);
}

static double rate_of(const warmup_instance *w, int64_t iteration, size_t group, double base)
{
    const warmup_options *o = w->options;
    if (w->after == AFTER_COSINE)
        return iteration < 0 ? 0 : base * cosine_ratio(w, iteration);
    double least = sched_list_at(&w->groups, &o->warmup_min_lr, group, 0);
    double largest = sched_list_at(&w->groups, &o->warmup_max_lr, group, base);
    return iteration < 0 ? least : least + (largest - least) * gamma_of(w, iteration);
}

static zds_status at(void *self, int64_t moves, zds_sched_value *values, size_t value_stride)
{
    const warmup_instance *w = self;
    int64_t start = w->options->last_batch_iteration;
    for (size_t g = 0; g < w->groups.count; g++) {
        zds_sched_value *v = sched_value(values, value_stride, g);
        double base = sched_base(&w->groups, g)->lr;
        v->mask = ZDS_SCHED_LR;
        v->hyper.lr = moves == 0 && start != -1 ? base : rate_of(w, start + moves, g, base);
    }
    return ZDS_OK;
}

#define OPS(create_fn)                                                                             \
    {                                                                                              \
        .struct_size = sizeof(zds_sched_ops), .create = (create_fn), .destroy = sched_destroy,     \
        .at = at                                                                                   \
    }
#define PLUGIN(type, table, vtable, text)                                                          \
    SCHED_PLUGIN(type, table, SCHED_ROWS(table), warmup_options, vtable, text)

static const zds_sched_ops warmup_ops = OPS(warmup_create);
static const zds_sched_ops decay_ops = OPS(decay_create);
static const zds_sched_ops cosine_ops = OPS(cosine_create);

static const zds_plugin warmup_plugin =
    PLUGIN("WarmupLR", warmup_table, warmup_ops, "the rate rises, then stays");
static const zds_plugin decay_plugin =
    PLUGIN("WarmupDecayLR", decay_table, decay_ops, "the rate rises, then falls along a line to 0");
static const zds_plugin cosine_plugin = PLUGIN("WarmupCosineLR", cosine_table, cosine_ops,
                                               "the rate rises, then falls along half a cosine");

ZDS_PLUGINS(&warmup_plugin, &decay_plugin, &cosine_plugin);
