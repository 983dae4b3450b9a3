/* OneCycle: the rate climbs and comes down once, against it the momentum (beta1), then both decay.
 * Smith 2018, "A disciplined approach to neural network hyper-parameters", as DeepSpeed 0.19's
 * runtime/lr_schedules.py computes it. */
#include <math.h>

#include "common/sched.h"

typedef struct onecycle_options {
    zds_float_list cycle_min_lr, cycle_max_lr, cycle_min_mom, cycle_max_mom;
    double decay_lr_rate, decay_mom_rate;
    double cycle_first_step_size, cycle_second_step_size;
    int64_t cycle_first_stair_count, cycle_second_stair_count, decay_step_size;
    int64_t last_batch_iteration;
    bool cycle_momentum;
} onecycle_options;

typedef struct onecycle_instance {
    sched_groups groups;
    const onecycle_options *options;
    bool has_momentum;
    double first, second; /* steps of the halves */
    int64_t first_stairs, second_stairs;
} onecycle_instance;

#define AT(field) offsetof(onecycle_options, field)

static const zds_option options_table[] = {
    {.name = "cycle_min_lr",
     .type = ZDS_OPTION_FLOAT_LIST,
     .flags = ZDS_OPTION_REQUIRED,
     .offset = AT(cycle_min_lr),
     .min = 0,
     .max = INFINITY,
     .doc = "rate at the start and end of the cycle; one, or a list of one a group"},
    {.name = "cycle_max_lr",
     .type = ZDS_OPTION_FLOAT_LIST,
     .flags = ZDS_OPTION_REQUIRED,
     .offset = AT(cycle_max_lr),
     .min = 0,
     .max = INFINITY,
     .doc = "rate in the middle of the cycle, one or a list"},
    {.name = "decay_lr_rate",
     .type = ZDS_OPTION_FLOAT,
     .offset = AT(decay_lr_rate),
     .default_value = "0",
     .min = -INFINITY,
     .max = INFINITY,
     .doc = "how fast the rate decays after the cycle"},
    {.name = "cycle_first_step_size",
     .type = ZDS_OPTION_FLOAT,
     .flags = ZDS_OPTION_ABOVE_MIN,
     .offset = AT(cycle_first_step_size),
     .default_value = "2000",
     .min = 0,
     .max = INFINITY,
     .doc = "steps of the rising half"},
    {.name = "cycle_second_step_size",
     .type = ZDS_OPTION_FLOAT,
     .flags = ZDS_OPTION_NULLABLE,
     .offset = AT(cycle_second_step_size),
     .default_value = "null",
     .min = 0,
     .max = INFINITY,
     .doc = "steps of the falling half; null: as many as the rising one's"},
    {.name = "cycle_first_stair_count",
     .type = ZDS_OPTION_INT,
     .offset = AT(cycle_first_stair_count),
     .default_value = "0",
     .min = 0,
     .max = INFINITY,
     .doc = "stairs of the rising half; 0: a smooth line"},
    {.name = "cycle_second_stair_count",
     .type = ZDS_OPTION_INT,
     .flags = ZDS_OPTION_NULLABLE,
     .offset = AT(cycle_second_stair_count),
     .default_value = "null",
     .min = 0,
     .max = INFINITY,
     .doc = "stairs of the falling half; null: as many as the rising one's"},
    {.name = "decay_step_size",
     .type = ZDS_OPTION_INT,
     .offset = AT(decay_step_size),
     .default_value = "0",
     .min = 0,
     .max = INFINITY,
     .doc = "steps over which the decay rates apply once; 0: no decay"},
    {.name = "cycle_momentum",
     .type = ZDS_OPTION_BOOL,
     .offset = AT(cycle_momentum),
     .default_value = "true",
     .doc = "move beta1 against the rate; beta2 is 0.99 then"},
    {.name = "cycle_min_mom",
     .type = ZDS_OPTION_FLOAT_LIST,
     .offset = AT(cycle_min_mom),
     .default_value = "0.8",
     .min = 0,
     .max = 1,
     .doc = "beta1 where the rate is largest, one or a list"},
    {.name = "cycle_max_mom",
     .type = ZDS_OPTION_FLOAT_LIST,
     .offset = AT(cycle_max_mom),
     .default_value = "0.9",
     .flags = ZDS_OPTION_BELOW_MAX,
     .min = 0,
     .max = 1,
     .doc = "beta1 where the rate is least, one or a list"},
    {.name = "decay_mom_rate",
     .type = ZDS_OPTION_FLOAT,
     .offset = AT(decay_mom_rate),
     .default_value = "0",
     .min = -INFINITY,
     .max = INFINITY,
     .doc = "how fast beta1 grows after the cycle"},
    SCHED_LAST_BATCH_ITERATION(onecycle_options, "values"),
};

static zds_status check_lists(const sched_groups *groups, const onecycle_options *o)
{
    const struct {
        const char *name;
        const zds_float_list *list;
    } lists[] = {{"cycle_min_lr", &o->cycle_min_lr},
                 {"cycle_max_lr", &o->cycle_max_lr},
                 {"cycle_min_mom", &o->cycle_min_mom},
                 {"cycle_max_mom", &o->cycle_max_mom}};
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && i < sizeof lists / sizeof *lists; i++)
        status = sched_check_list(groups, lists[i].name, lists[i].list);
    return status;
}

static zds_status create(const zds_host *host, const void *options, const zds_sched_env *env,
                         void **self)
{
    const onecycle_options *o = options;
    sched_groups groups = sched_groups_of(host, env);
    zds_status status = check_lists(&groups, o);
    if (!status)
        status = sched_create(&groups, sizeof(onecycle_instance), self);
    if (status)
        return status;
    onecycle_instance *c = *self;
    double second = o->cycle_second_step_size;
    int64_t second_stairs = o->cycle_second_stair_count;
    bool has_betas = groups.count > 0 && !isnan(groups.base->beta1);
    c->options = o;
    c->has_momentum = o->cycle_momentum && has_betas;
    c->first = o->cycle_first_step_size;
    c->second = isnan(second) ? o->cycle_first_step_size : second;
    c->first_stairs = o->cycle_first_stair_count;
    c->second_stairs = second_stairs == INT64_MIN ? o->cycle_first_stair_count : second_stairs;
    if (o->cycle_momentum && !has_betas)
        host->log(host, ZDS_LOG_WARNING,
                  "the optimizer has no betas, so that cycle_momentum has nothing to move; write "
                  "\"cycle_momentum\": false");
    return ZDS_OK;
}

/* How high in the cycle, from 0 to 1, `step` is. Stairs are cut from the step itself: a rounded
 * height just under a stair would lose it. */
static double height(const onecycle_instance *c, double step)
{
    double total = c->first + c->second, ratio = c->first / total;
    double x = 1 + step / total - floor(1 + step / total);
    bool rising = x <= ratio;
    double smooth = rising ? x / ratio : (x - 1) / (ratio - 1);
    int64_t stairs = rising ? c->first_stairs : c->second_stairs;
    if (stairs <= 0)
        return smooth;
    double in_cycle = fmod(step, total), count = (double)stairs;
    double stair =
        in_cycle <= c->first ? in_cycle * count / c->first : (total - in_cycle) * count / c->second;
    return floor(stair) / count;
}

typedef struct rate_and_momentum {
    double rate, momentum;
} rate_and_momentum;

/* A list's value in a group; none of them may be null. */
static double listed(const onecycle_instance *c, const zds_float_list *list, size_t group)
{
    return sched_list_at(&c->groups, list, group, 0);
}

/* `last`: the last step that is done, from 0. */
static rate_and_momentum values_of(const onecycle_instance *c, int64_t last, size_t group)
{
    const onecycle_options *o = c->options;
    double least = listed(c, &o->cycle_min_lr, group), most = listed(c, &o->cycle_max_lr, group);
    double least_mom = listed(c, &o->cycle_min_mom, group);
    double most_mom = listed(c, &o->cycle_max_mom, group), total = c->first + c->second;
    if ((double)last < total) {
        double h = height(c, (double)last + 1);
        return (rate_and_momentum){least + (most - least) * h,
                                   most_mom - (most_mom - least_mom) * h};
    }
    if (o->decay_step_size == 0)
        return (rate_and_momentum){least, most_mom};
    double interval = ((double)last - total + 1) / (double)o->decay_step_size;
    return (rate_and_momentum){least / (1 + o->decay_lr_rate * interval),
                               most_mom * (1 + o->decay_mom_rate * interval)};
}

static zds_status at(void *self, int64_t moves, zds_sched_value *values, size_t value_stride)
{
    const onecycle_instance *c = self;
    int64_t start = c->options->last_batch_iteration;
    if (moves == 0 && start != -1)
        return ZDS_OK;
    for (size_t g = 0; g < c->groups.count; g++) {
        zds_sched_value *v = sched_value(values, value_stride, g);
        rate_and_momentum now = values_of(c, start + moves, g);
        /* Creation sets the least of both. */
        if (moves == 0)
            now = (rate_and_momentum){listed(c, &c->options->cycle_min_lr, g),
                                      listed(c, &c->options->cycle_min_mom, g)};
        v->mask = ZDS_SCHED_LR;
        v->hyper.lr = now.rate;
        if (c->has_momentum) {
            v->mask |= ZDS_SCHED_BETA1 | ZDS_SCHED_BETA2;
            v->hyper.beta1 = now.momentum;
            v->hyper.beta2 = 0.99;
        }
    }
    return ZDS_OK;
}

static const zds_sched_ops ops = {
    .struct_size = sizeof ops, .create = create, .destroy = sched_destroy, .at = at};

static const zds_plugin plugin =
    SCHED_PLUGIN("OneCycle", options_table, SCHED_ROWS(options_table), onecycle_options, ops,
                 "the rate climbs and falls once, the momentum against it");

ZDS_PLUGINS(&plugin);
