/* A schedule of one's own: the rate of each group halves every `half_life` steps, down to `floor`
 * times what the optimizer's options say. C11, and C++20 as well. */
#include <math.h>

#include "zds/plugin.h"

/* What a table does not set is zero. As C++, g++ -Wextra would name each such field. */
#if defined(__cplusplus) && defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif

typedef struct decay_options {
    double half_life, floor;
} decay_options;

static const zds_option table[] = {
    {"half_life", ZDS_OPTION_FLOAT, ZDS_OPTION_REQUIRED | ZDS_OPTION_ABOVE_MIN,
     offsetof(decay_options, half_life), 0, NULL, 0, INFINITY, NULL, NULL,
     "steps in which the rate halves"},
    {"floor", ZDS_OPTION_FLOAT, 0, offsetof(decay_options, floor), 0, "0", 0, 1, NULL, NULL,
     "the least rate, as a part of the optimizer's"},
};

/* Options and base values live as long as the instance, the rest of `env` does not. */
typedef struct decay {
    const zds_host *host;
    const decay_options *options;
    size_t group_count, stride;
    const zds_hyper *base;
} decay;

static zds_status create(const zds_host *host, const void *options, const zds_sched_env *env,
                         void **self)
{
    decay *d = (decay *)host->alloc(host, sizeof *d, 0);
    if (!d)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a schedule");
    d->host = host;
    d->options = (const decay_options *)options;
    d->group_count = env->group_count;
    d->stride = env->hyper_stride;
    d->base = env->base;
    *self = d;
    return ZDS_OK;
}

static void destroy(void *self)
{
    decay *d = (decay *)self;
    d->host->free(d->host, d);
}

static zds_status at(void *self, int64_t moves, zds_sched_value *values, size_t value_stride)
{
    const decay *d = (const decay *)self;
    const double part = fmax(exp2(-(double)moves / d->options->half_life), d->options->floor);
    for (size_t g = 0; g < d->group_count; g++) {
        const zds_hyper *base = (const zds_hyper *)((const char *)d->base + g * d->stride);
        zds_sched_value *v = (zds_sched_value *)((char *)values + g * value_stride);
        v->mask = ZDS_SCHED_LR;
        v->hyper.lr = base->lr * part;
    }
    return ZDS_OK;
}

static const zds_sched_ops ops = {
    .struct_size = sizeof ops, .create = create, .destroy = destroy, .at = at};

static const zds_plugin my_decay = {.struct_size = sizeof my_decay,
                                    .kind = ZDS_KIND_SCHED,
                                    .abi_minor = ZDS_ABI_MINOR,
                                    .name = "MyDecay",
                                    .version = "1.0",
                                    .doc = "halves the rate at even intervals",
                                    ZDS_OPTION_TABLE(table, decay_options),
                                    .ops = &ops};
ZDS_PLUGINS(&my_decay);
