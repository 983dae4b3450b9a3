/* Rprop: options and constants. The formula is in rprop_kernel.c; options and defaults are those of
 * torch.optim.Rprop. */
#include "optim/rprop/rprop.h"

typedef struct rprop_options {
    double lr, etas[2], step_sizes[2];
    bool maximize;
} rprop_options;

static const zds_option options_table[] = {
    {.name = "lr",
     .type = ZDS_OPTION_FLOAT,
     .offset = offsetof(rprop_options, lr),
     .default_value = "0.01",
     .min = 0,
     .max = INFINITY,
     .auto_from = "learning_rate",
     .doc = "size of a parameter's first step; as in torch, a schedule changes nothing after it"},
    {.name = "etas",
     .type = ZDS_OPTION_FLOATS,
     .flags = ZDS_OPTION_ABOVE_MIN,
     .offset = offsetof(rprop_options, etas),
     .count = 2,
     .default_value = "[0.5, 1.2]",
     .min = 0,
     .max = INFINITY,
     .doc = "factors of an element's step where its gradient turns, and where it does not"},
    {.name = "step_sizes",
     .type = ZDS_OPTION_FLOATS,
     .offset = offsetof(rprop_options, step_sizes),
     .count = 2,
     .default_value = "[1e-6, 50]",
     .min = 0,
     .max = INFINITY,
     .doc = "least and largest step of an element"},
    OPTION_MAXIMIZE(rprop_options),
};

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const rprop_options *o = optim->options;
    (void)step;
    *(rprop_constants *)out = (rprop_constants){.first = (float)tile->hyper->lr,
                                                .shrink = (float)o->etas[0],
                                                .grow = (float)o->etas[1],
                                                .least = (float)o->step_sizes[0],
                                                .most = (float)o->step_sizes[1]};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const states[] = {"step_size", "prev"};
    static const elementwise_fn kernels[] = SIMD_TABLE(rprop_run);
    _Static_assert(sizeof(rprop_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const rprop_options *o = options;
    if (!(o->etas[0] < 1 && o->etas[1] > 1))
        return host->fail(host, ZDS_ERR_CONFIG,
                          "etas must be below 1 and above 1, as [0.5, 1.2], not [%g, %g]",
                          o->etas[0], o->etas[1]);
    if (o->step_sizes[0] > o->step_sizes[1])
        return host->fail(host, ZDS_ERR_CONFIG,
                          "step_sizes: the least, %g, is above the largest, %g; exchange them",
                          o->step_sizes[0], o->step_sizes[1]);
    elementwise_optim plan = {.options = o,
                              .states = states,
                              .state_count = 2,
                              .initial = RPROP_NONE,
                              .maximize = o->maximize,
                              .constants = constants};
    return elementwise_create(host, env, &plan, kernels, self);
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = elementwise_describe};

static const zds_plugin plugin = {
    OPTIM_PLUGIN("Rprop", options_table, rprop_options, ops,
                 "steps that follow the signs of the gradient alone; for whole batches")};

ZDS_PLUGINS(&plugin);
