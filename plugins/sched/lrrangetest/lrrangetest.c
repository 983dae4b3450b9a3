/* LRRangeTest: the rate grows along a line or stairs, to find where training diverges. Smith 2018,
 * "A disciplined approach to neural network hyper-parameters", as DeepSpeed 0.19's
 * runtime/lr_schedules.py computes it. */
#include <math.h>

#include "common/sched.h"

typedef struct range_options {
    zds_float_list lr_range_test_min_lr;
    int64_t lr_range_test_step_size, last_batch_iteration;
    double lr_range_test_step_rate;
    bool lr_range_test_staircase;
} range_options;

typedef struct range_instance {
    sched_groups groups;
    const range_options *options;
} range_instance;

#define AT(field) offsetof(range_options, field)

static const zds_option options_table[] = {
    {.name = "lr_range_test_min_lr",
     .type = ZDS_OPTION_FLOAT_LIST,
     .offset = AT(lr_range_test_min_lr),
     .default_value = "0.001",
     .min = 0,
     .max = INFINITY,
     .doc = "rate at the start; one for all groups, or a list of one a group"},
    {.name = "lr_range_test_step_size",
     .type = ZDS_OPTION_INT,
     .offset = AT(lr_range_test_step_size),
     .default_value = "2000",
     .min = 1,
     .max = INFINITY,
     .doc = "steps over which step_rate applies once"},
    {.name = "lr_range_test_step_rate",
     .type = ZDS_OPTION_FLOAT,
     .offset = AT(lr_range_test_step_rate),
     .default_value = "1",
     .min = -INFINITY,
     .max = INFINITY,
     .doc = "what the rate gains over step_size steps, in rates of the start"},
    {.name = "lr_range_test_staircase",
     .type = ZDS_OPTION_BOOL,
     .offset = AT(lr_range_test_staircase),
     .default_value = "false",
     .doc = "grow once every step_size steps, not at every step"},
    SCHED_LAST_BATCH_ITERATION(range_options, "rate"),
};

static zds_status create(const zds_host *host, const void *options, const zds_sched_env *env,
                         void **self)
{
    const range_options *o = options;
    sched_groups groups = sched_groups_of(host, env);
    zds_status status = sched_check_list(&groups, "lr_range_test_min_lr", &o->lr_range_test_min_lr);
    if (!status)
        status = sched_create(&groups, sizeof(range_instance), self);
    if (!status)
        ((range_instance *)*self)->options = o;
    return status;
}

static zds_status at(void *self, int64_t moves, zds_sched_value *values, size_t value_stride)
{
    const range_instance *r = self;
    const range_options *o = r->options;
    if (moves == 0 && o->last_batch_iteration != -1)
        return ZDS_OK;
    double step = (double)(o->last_batch_iteration + moves + 1);
    double interval = step / (double)o->lr_range_test_step_size;
    if (o->lr_range_test_staircase)
        interval = floor(interval);
    for (size_t g = 0; g < r->groups.count; g++) {
        zds_sched_value *v = sched_value(values, value_stride, g);
        v->mask = ZDS_SCHED_LR;
        v->hyper.lr = sched_list_at(&r->groups, &o->lr_range_test_min_lr, g, 0) *
                      (1 + o->lr_range_test_step_rate * interval);
    }
    return ZDS_OK;
}

static const zds_sched_ops ops = {
    .struct_size = sizeof ops, .create = create, .destroy = sched_destroy, .at = at};

static const zds_plugin plugin =
    SCHED_PLUGIN("LRRangeTest", options_table, SCHED_ROWS(options_table), range_options, ops,
                 "the rate grows, to find where training diverges");

ZDS_PLUGINS(&plugin);
