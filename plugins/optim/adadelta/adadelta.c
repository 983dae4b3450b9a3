/* Adadelta: options and constants. The formula is in adadelta_kernel.c. */
#include "optim/adadelta/adadelta.h"

typedef struct adadelta_options {
    double lr, rho, eps, weight_decay;
    bool maximize;
} adadelta_options;

static const zds_option options_table[] = {
    OPTION_LR(adadelta_options, "1"),
    {.name = "rho",
     .type = ZDS_OPTION_FLOAT,
     .offset = offsetof(adadelta_options, rho),
     .default_value = "0.9",
     .min = 0,
     .max = 1,
     .doc = "decay of the running means of squares"},
    OPTION_EPS(adadelta_options, "1e-6", "added to the mean squares, inside the roots"),
    OPTION_WEIGHT_DECAY(adadelta_options, "L2 penalty, added to the gradient"),
    OPTION_MAXIMIZE(adadelta_options),
};

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const adadelta_options *o = optim->options;
    (void)step;
    *(adadelta_constants *)out =
        (adadelta_constants){.lr = (float)tile->hyper->lr,
                             .rho = (float)o->rho,
                             .one_minus_rho = (float)(1 - o->rho),
                             .eps = (float)o->eps,
                             .weight_decay = (float)tile->hyper->weight_decay};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const states[] = {"square_avg", "acc_delta"};
    static const elementwise_fn kernels[] = SIMD_TABLE(adadelta_run);
    _Static_assert(sizeof(adadelta_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const adadelta_options *o = options;
    elementwise_optim plan = {.options = o,
                              .states = states,
                              .state_count = 2,
                              .maximize = o->maximize,
                              .constants = constants};
    return elementwise_create(host, env, &plan, kernels, self);
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = elementwise_describe};

static const zds_plugin plugin = {OPTIM_PLUGIN("Adadelta", options_table, adadelta_options, ops,
                                               "steps in proportion to the steps taken before")};

ZDS_PLUGINS(&plugin);
