/* RMSprop: options and constants. The formula is in rmsprop_kernel.c. */
#include "optim/rmsprop/rmsprop.h"

typedef struct rmsprop_options {
    double lr, alpha, eps, weight_decay, momentum;
    bool centered, maximize;
} rmsprop_options;

static const zds_option options_table[] = {
    OPTION_LR(rmsprop_options, "0.01"),
    OPTION_NUMBER(rmsprop_options, alpha, "0.99", 0, "decay of the running mean of squares"),
    OPTION_EPS(rmsprop_options, "1e-8", "added to the denominator, outside the root"),
    OPTION_WEIGHT_DECAY(rmsprop_options, "L2 penalty, added to the gradient"),
    OPTION_NUMBER(rmsprop_options, momentum, "0", 0,
                  "decay of the sum of steps that is followed; 0: the step itself"),
    OPTION_FLAG(rmsprop_options, centered, "false",
                "divide by the deviation from the mean gradient, not by the mean square"),
    OPTION_MAXIMIZE(rmsprop_options),
};

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const rmsprop_options *o = optim->options;
    const zds_hyper *h = tile->hyper;
    (void)step;
    *(rmsprop_constants *)out = (rmsprop_constants){.lr = (float)h->lr,
                                                    .alpha = (float)o->alpha,
                                                    .one_minus_alpha = (float)(1 - o->alpha),
                                                    .eps = (float)o->eps,
                                                    .weight_decay = (float)h->weight_decay,
                                                    .momentum = (float)h->momentum};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const with_momentum[] = {"square_avg", "momentum_buffer", "grad_avg"};
    static const char *const without[] = {"square_avg", "grad_avg"};
    static const elementwise_fn kernels[2][2][SIMD_LEVELS] = {
        {SIMD_TABLE(rmsprop_run), SIMD_TABLE(rmsprop_run_centered)},
        {SIMD_TABLE(rmsprop_run_momentum), SIMD_TABLE(rmsprop_run_momentum_centered)}};
    _Static_assert(sizeof(rmsprop_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const rmsprop_options *o = options;
    bool momentum = o->momentum > 0;
    elementwise_optim plan = {.options = o,
                              .states = momentum ? with_momentum : without,
                              .state_count = 1 + momentum + o->centered,
                              .maximize = o->maximize,
                              .constants = constants};
    return elementwise_create(host, env, &plan, kernels[momentum][o->centered], self);
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    const elementwise_optim *optim = self;
    const rmsprop_options *o = optim->options;
    elementwise_describe(self, param, needs);
    return elementwise_group_momentum(optim, needs, o->momentum);
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = describe};

static const zds_plugin plugin = {OPTIM_PLUGIN("RMSprop", options_table, rmsprop_options, ops,
                                               "the gradient over the root of its mean square")};

ZDS_PLUGINS(&plugin);
