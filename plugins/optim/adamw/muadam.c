/* MuAdam and MuAdamW: Adam and AdamW of torch, whose rates follow the width of each parameter (see
 * common/mup.h). Options and defaults are those of mup's functions of these names, which pass them
 * on to torch. The formula is in adamw_kernel.c. */
#include "common/mup.h"
#include "optim/adamw/adamw.h"

typedef struct muadam_options {
    double lr, betas[2], eps, weight_decay;
    bool amsgrad, maximize, decoupled_weight_decay;
} muadam_options;

#define MUADAM_OPTIONS                                                                             \
    OPTION_LR(muadam_options, "0.001"),                                                            \
        OPTION_BETAS(muadam_options, "[0.9, 0.999]",                                               \
                     "decay of the running means of the gradient and of its square"),              \
        OPTION_EPS(muadam_options, "1e-8", "added to the denominator, outside the root"),          \
        OPTION_FLAG(muadam_options, amsgrad, "false", "divide by the largest mean square so far"), \
        OPTION_MAXIMIZE(muadam_options)

static const zds_option muadam_table[] = {
    MUADAM_OPTIONS,
    OPTION_WEIGHT_DECAY(muadam_options, "L2 penalty, times the width, or decoupled weight decay"),
    OPTION_FLAG(muadam_options, decoupled_weight_decay, "false", "weight decay as in MuAdamW"),
};
static const zds_option muadamw_table[] = {
    MUADAM_OPTIONS,
    OPTION_WEIGHT_DECAY(muadam_options, "decoupled weight decay, the same at every width"),
};

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                      bool decoupled, void *out)
{
    const muadam_options *o = optim->options;
    double divisor = mup_adam_divisor(tile->param);
    zds_hyper h = *tile->hyper;
    h.lr /= divisor;
    h.weight_decay *= divisor;
    *(adam_constants *)out = adam_constants_of(&h, o->eps, step, decoupled);
}

static void muadam_constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                             void *out)
{
    const muadam_options *o = optim->options;
    constants(optim, tile, step, o->decoupled_weight_decay, out);
}

static void muadamw_constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                              void *out)
{
    constants(optim, tile, step, true, out);
}

static zds_status create(const zds_host *host, const muadam_options *o, const zds_optim_env *env,
                         elementwise_optim *plan, void **self)
{
    plan->options = o;
    plan->maximize = o->maximize;
    return adam_create_kernels(host, env, plan, o->amsgrad, self);
}

static zds_status muadam_create(const zds_host *host, const void *options, const zds_optim_env *env,
                                void **self)
{
    return create(host, options, env, &(elementwise_optim){.constants = muadam_constants}, self);
}

static zds_status muadamw_create(const zds_host *host, const void *options,
                                 const zds_optim_env *env, void **self)
{
    return create(host, options, env, &(elementwise_optim){.constants = muadamw_constants}, self);
}

static zds_status begin_step(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    const elementwise_optim *optim = self;
    mup_warn(optim->host, params, ctx);
    return ZDS_OK;
}

static const zds_optim_ops muadam_ops = {
    ELEMENTWISE_OPS(muadam_create), .describe = elementwise_describe, .begin_step = begin_step};
static const zds_optim_ops muadamw_ops = {
    ELEMENTWISE_OPS(muadamw_create), .describe = elementwise_describe, .begin_step = begin_step};

const zds_plugin muadam_plugin = {OPTIM_PLUGIN("MuAdam", muadam_table, muadam_options, muadam_ops,
                                               "Adam whose rates follow the width (muP)")};
const zds_plugin muadamw_plugin = {OPTIM_PLUGIN("MuAdamW", muadamw_table, muadam_options,
                                                muadamw_ops,
                                                "AdamW whose rates follow the width (muP)")};
