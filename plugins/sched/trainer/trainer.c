/* The schedules that the Trainer's lr_scheduler_type names: options and life of an instance. The
 * curves are in curves.c. The numbers of steps come from the run unless the options say them. */
#include <math.h>

#include "common/sched.h"
#include "sched/trainer/curves.h"

typedef struct trainer_instance {
    sched_groups groups;
    curve curve;
    curve_fn ratio;
} trainer_instance;

/* === options === */

#define AT(field) offsetof(curve_options, field)

#define STEPS(option, text)                                                                        \
    {                                                                                              \
        .name = #option, .type = ZDS_OPTION_INT, .flags = ZDS_OPTION_NULLABLE,                     \
        .offset = AT(option), .default_value = "null", .min = 0, .max = INFINITY, .doc = text      \
    }
#define NUMBER(option, preset, least, text)                                                        \
    {                                                                                              \
        .name = #option, .type = ZDS_OPTION_FLOAT, .offset = AT(option), .default_value = preset,  \
        .min = least, .max = INFINITY, .doc = text                                                 \
    }
#define MAYBE(option, text)                                                                        \
    {                                                                                              \
        .name = #option, .type = ZDS_OPTION_FLOAT, .flags = ZDS_OPTION_NULLABLE,                   \
        .offset = AT(option), .default_value = "null", .min = 0, .max = INFINITY, .doc = text      \
    }
#define SHAPE(option, preset, text)                                                                \
    {                                                                                              \
        .name = #option, .type = ZDS_OPTION_ENUM, .offset = AT(option), .default_value = preset,   \
        .choices = "linear|cosine|1-sqrt", .doc = text                                             \
    }

#define WARMUP_ROW STEPS(num_warmup_steps, "steps over which the rate rises; null: as the run says")
#define TOTAL_ROW  STEPS(num_training_steps, "steps of the whole run; null: as the run says")
#define CYCLES_ROW NUMBER(num_cycles, "0.5", 0, "waves of the cosine; 0.5 falls once, to the least")
#define LEAST_ROWS                                                                                 \
    MAYBE(min_lr, "the least rate; give this or min_lr_rate"),                                     \
        MAYBE(min_lr_rate, "the least rate over the optimizer's lr")

static const zds_option warmup_table[] = {WARMUP_ROW};
static const zds_option linear_table[] = {WARMUP_ROW, TOTAL_ROW};
static const zds_option cosine_table[] = {WARMUP_ROW, TOTAL_ROW, CYCLES_ROW};
static const zds_option restarts_table[] = {
    WARMUP_ROW, TOTAL_ROW, NUMBER(num_cycles, "1", 0, "how often the cosine starts anew")};
static const zds_option polynomial_table[] = {
    WARMUP_ROW, TOTAL_ROW, NUMBER(lr_end, "1e-7", 0, "the rate at the end"),
    NUMBER(power, "1", -INFINITY, "power of the part of the steps that is left")};
static const zds_option inverse_sqrt_table[] = {
    WARMUP_ROW,
    {.name = "timescale",
     .type = ZDS_OPTION_INT,
     .flags = ZDS_OPTION_NULLABLE,
     .offset = AT(timescale),
     .default_value = "null",
     .min = 1,
     .max = INFINITY,
     .doc = "steps after which the rate has fallen; null: the warm-up's, or 10000 without one"}};
static const zds_option min_lr_table[] = {WARMUP_ROW, TOTAL_ROW, CYCLES_ROW, LEAST_ROWS};
static const zds_option warmup_min_lr_table[] = {
    WARMUP_ROW, TOTAL_ROW, CYCLES_ROW, LEAST_ROWS,
    MAYBE(warmup_lr_rate, "rate of the first step over the optimizer's; null: 1 over the warm-up")};
static const zds_option stable_table[] = {
    WARMUP_ROW,
    TOTAL_ROW,
    CYCLES_ROW,
    {.name = "num_decay_steps",
     .type = ZDS_OPTION_INT,
     .flags = ZDS_OPTION_REQUIRED,
     .offset = AT(num_decay_steps),
     .min = 0,
     .max = INFINITY,
     .doc = "steps over which the rate falls"},
    STEPS(num_stable_steps, "steps between warm-up and decay; null: what the run leaves"),
    SHAPE(warmup_type, "\"linear\"", "how the rate rises"),
    SHAPE(decay_type, "\"cosine\"", "how the rate falls"),
    NUMBER(min_lr_ratio, "0", -INFINITY, "rate at the start and end over the optimizer's")};

/* === life === */

/* Fills in what the options leave to the run. */
static zds_status find_steps(const zds_host *host, const zds_sched_env *env, bool needs_total,
                             curve *c)
{
    int64_t warmup = c->options->num_warmup_steps, total = c->options->num_training_steps;
    /* Options without a row are 0, those that are null the least integer. */
    if (warmup == INT64_MIN)
        warmup = env->warmup_steps > 0 ? env->warmup_steps : 0;
    if (needs_total && total == INT64_MIN) {
        if (env->total_steps < 0)
            return host->fail(host, ZDS_ERR_CONFIG,
                              "how many steps the run has is not known; write num_training_steps "
                              "into the schedule's params");
        total = env->total_steps;
    }
    c->warmup = (double)warmup;
    c->total = (double)total;
    return ZDS_OK;
}

static zds_status create(const zds_host *host, const curve *start, const zds_sched_env *env,
                         curve_fn ratio, bool needs_total, void **self)
{
    curve c = *start;
    zds_status status = find_steps(host, env, needs_total, &c);
    if (status)
        return status;
    sched_groups groups = sched_groups_of(host, env);
    status = sched_create(&groups, sizeof(trainer_instance), self);
    if (status)
        return status;
    trainer_instance *t = *self;
    t->curve = c;
    t->ratio = ratio;
    if (ratio == curve_inverse_sqrt) {
        double preset = c.warmup > 0 ? c.warmup : 10000;
        t->curve.timescale =
            c.options->timescale == INT64_MIN ? preset : (double)c.options->timescale;
    }
    if (ratio == curve_warmup_stable_decay) {
        int64_t stable = c.options->num_stable_steps;
        t->curve.least = c.options->min_lr_ratio;
        t->curve.decay = (double)c.options->num_decay_steps;
        t->curve.stable =
            stable == INT64_MIN ? c.total - c.warmup - t->curve.decay : (double)stable;
    }
    return ZDS_OK;
}

static zds_status at(void *self, int64_t moves, zds_sched_value *values, size_t value_stride)
{
    const trainer_instance *t = self;
    double ratio = t->ratio(&t->curve, (double)moves);
    for (size_t g = 0; g < t->groups.count; g++) {
        zds_sched_value *v = sched_value(values, value_stride, g);
        v->mask = ZDS_SCHED_LR;
        v->hyper.lr = sched_base(&t->groups, g)->lr * ratio;
    }
    return ZDS_OK;
}

/* === one create a schedule === */

static zds_status constant_create(const zds_host *host, const void *options,
                                  const zds_sched_env *env, void **self)
{
    (void)options;
    static const curve_options none;
    return create(host, &(curve){.options = &none}, env, curve_constant, false, self);
}

static zds_status constant_with_warmup_create(const zds_host *host, const void *options,
                                              const zds_sched_env *env, void **self)
{
    return create(host, &(curve){.options = options}, env, curve_constant_with_warmup, false, self);
}

static zds_status linear_create(const zds_host *host, const void *options, const zds_sched_env *env,
                                void **self)
{
    return create(host, &(curve){.options = options}, env, curve_linear, true, self);
}

static zds_status cosine_create(const zds_host *host, const void *options, const zds_sched_env *env,
                                void **self)
{
    return create(host, &(curve){.options = options}, env, curve_cosine, true, self);
}

static zds_status cosine_with_restarts_create(const zds_host *host, const void *options,
                                              const zds_sched_env *env, void **self)
{
    return create(host, &(curve){.options = options}, env, curve_cosine_with_restarts, true, self);
}

static zds_status inverse_sqrt_create(const zds_host *host, const void *options,
                                      const zds_sched_env *env, void **self)
{
    return create(host, &(curve){.options = options}, env, curve_inverse_sqrt, false, self);
}

/* The optimizer's own rate, which a least rate is measured by: not a group's, where it says one. */
static double own_rate(const zds_sched_env *env)
{
    return ZDS_HAS(env, default_lr) && !isnan(env->default_lr) ? env->default_lr : env->base->lr;
}

static zds_status polynomial_create(const zds_host *host, const void *options,
                                    const zds_sched_env *env, void **self)
{
    const curve_options *o = options;
    const double lr = own_rate(env);
    if (!(lr > o->lr_end))
        return host->fail(host, ZDS_ERR_CONFIG,
                          "lr_end is %g, which is not below the optimizer's lr, %g", o->lr_end, lr);
    return create(host, &(curve){.options = o, .least = o->lr_end / lr}, env, curve_polynomial,
                  true, self);
}

static zds_status least_create(const zds_host *host, const curve_options *o,
                               const zds_sched_env *env, curve_fn ratio, void **self)
{
    if (isnan(o->min_lr) == isnan(o->min_lr_rate))
        return host->fail(host, ZDS_ERR_CONFIG,
                          "write one of min_lr and min_lr_rate into the schedule's params, not %s",
                          isnan(o->min_lr) ? "none" : "both");
    double least = isnan(o->min_lr) ? o->min_lr_rate : o->min_lr / own_rate(env);
    return create(host, &(curve){.options = o, .least = least}, env, ratio, true, self);
}

static zds_status cosine_with_min_lr_create(const zds_host *host, const void *options,
                                            const zds_sched_env *env, void **self)
{
    return least_create(host, options, env, curve_cosine, self);
}

static zds_status cosine_warmup_with_min_lr_create(const zds_host *host, const void *options,
                                                   const zds_sched_env *env, void **self)
{
    return least_create(host, options, env, curve_cosine_warmup_with_min_lr, self);
}

static zds_status warmup_stable_decay_create(const zds_host *host, const void *options,
                                             const zds_sched_env *env, void **self)
{
    const curve_options *o = options;
    return create(host, &(curve){.options = o}, env, curve_warmup_stable_decay,
                  o->num_stable_steps == INT64_MIN, self);
}

/* === descriptors === */

#define PLUGIN(type, table, rows, text)                                                            \
    static const zds_sched_ops type##_ops = {.struct_size = sizeof(zds_sched_ops),                 \
                                             .create = type##_create,                              \
                                             .destroy = sched_destroy,                             \
                                             .at = at};                                            \
    static const zds_plugin type##_plugin =                                                        \
        SCHED_PLUGIN(#type, table, rows, curve_options, type##_ops, text)

PLUGIN(constant, NULL, 0, "the optimizer's own rate");
PLUGIN(constant_with_warmup, warmup_table, SCHED_ROWS(warmup_table),
       "rises along a line, then stays");
PLUGIN(linear, linear_table, SCHED_ROWS(linear_table),
       "rises along a line, then falls along one to 0");
PLUGIN(cosine, cosine_table, SCHED_ROWS(cosine_table),
       "rises along a line, then falls along a cosine");
PLUGIN(cosine_with_restarts, restarts_table, SCHED_ROWS(restarts_table),
       "rises along a line, then falls along a cosine several times");
PLUGIN(polynomial, polynomial_table, SCHED_ROWS(polynomial_table),
       "rises along a line, then falls with a power of the steps that are left");
PLUGIN(inverse_sqrt, inverse_sqrt_table, SCHED_ROWS(inverse_sqrt_table),
       "rises along a line, then falls with the inverse root of the step");
PLUGIN(cosine_with_min_lr, min_lr_table, SCHED_ROWS(min_lr_table),
       "rises along a line, then falls along a cosine to a least rate");
PLUGIN(cosine_warmup_with_min_lr, warmup_min_lr_table, SCHED_ROWS(warmup_min_lr_table),
       "rises from a first rate, then falls along a cosine to a least rate");
PLUGIN(warmup_stable_decay, stable_table, SCHED_ROWS(stable_table), "rises, stays, then falls");

ZDS_PLUGINS(&constant_plugin, &constant_with_warmup_plugin, &linear_plugin, &cosine_plugin,
            &cosine_with_restarts_plugin, &polynomial_plugin, &inverse_sqrt_plugin,
            &cosine_with_min_lr_plugin, &cosine_warmup_with_min_lr_plugin,
            &warmup_stable_decay_plugin);
