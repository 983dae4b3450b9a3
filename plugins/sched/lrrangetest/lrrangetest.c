/* LRRangeTest: the rate grows along a line or stairs, to find where training diverges. Smith 2018,
 * "A disciplined approach to neural network hyper-parameters", as DeepSpeed 0.19's
 * runtime/lr_schedules.py computes it. */
#include <math.h>
#include <stddef.h>

#include "zds/plugin.h"

typedef struct range_options {
    zds_float_list lr_range_test_min_lr;
    int64_t lr_range_test_step_size, last_batch_iteration;
    double lr_range_test_step_rate;
    bool lr_range_test_staircase;
} range_options;

typedef struct range_instance {
    const zds_host *host;
    const range_options *options;
    size_t group_count;
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
    {.name = "last_batch_iteration",
     .type = ZDS_OPTION_INT,
     .offset = AT(last_batch_iteration),
     .default_value = "-1",
     .min = -1,
     .max = INFINITY,
     .doc = "steps done before, less one; other than -1, the first step keeps the optimizer's "
            "rate"},
};

static zds_status create(const zds_host *host, const void *options, const zds_sched_env *env,
                         void **self)
{
    const range_options *o = options;
    size_t count = o->lr_range_test_min_lr.count;
    if (count != 1 && count != env->group_count)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "lr_range_test_min_lr has %zu values for %zu parameter groups; write one "
                          "value for all, or one a group",
                          count, env->group_count);
    range_instance *r = host->alloc(host, sizeof *r, 0);
    if (!r)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a schedule");
    *r = (range_instance){.host = host, .options = o, .group_count = env->group_count};
    *self = r;
    return ZDS_OK;
}

static void destroy(void *self)
{
    range_instance *r = self;
    r->host->free(r->host, r);
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
    for (size_t g = 0; g < r->group_count; g++) {
        zds_sched_value *v = (zds_sched_value *)(void *)((char *)values + g * value_stride);
        const zds_float_list *least = &o->lr_range_test_min_lr;
        v->mask = ZDS_SCHED_LR;
        v->hyper.lr =
            least->values[least->count == 1 ? 0 : g] * (1 + o->lr_range_test_step_rate * interval);
    }
    return ZDS_OK;
}

static const zds_sched_ops ops = {
    .struct_size = sizeof ops, .create = create, .destroy = destroy, .at = at};

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_SCHED,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "LRRangeTest",
                                  .version = "1.0",
                                  .doc = "the rate grows, to find where training diverges",
                                  .options = options_table,
                                  .option_stride = sizeof options_table[0],
                                  .option_count = sizeof options_table / sizeof options_table[0],
                                  .options_size = sizeof(range_options),
                                  .ops = &ops};

ZDS_PLUGINS(&plugin);
