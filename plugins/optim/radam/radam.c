/* RAdam: options and constants. The formula is in radam_kernel.c. */
#include "optim/radam/radam.h"

typedef struct radam_options {
    double lr, betas[2], eps, weight_decay;
    bool decoupled_weight_decay, maximize;
} radam_options;

static const zds_option options_table[] = {
    OPTION_LR(radam_options, "0.001"),
    OPTION_BETAS(radam_options, "[0.9, 0.999]",
                 "decay of the running means of the gradient and of its square"),
    OPTION_EPS(radam_options, "1e-8", "added to the root of the mean square"),
    OPTION_WEIGHT_DECAY(radam_options, "weight decay, added to the gradient unless decoupled"),
    OPTION_FLAG(radam_options, decoupled_weight_decay, "false",
                "weight decay acts on the weight, as in AdamW"),
    OPTION_MAXIMIZE(radam_options),
};

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const radam_options *o = optim->options;
    const zds_hyper *h = tile->hyper;
    double t = (double)step, power = pow(h->beta2, t), bias2 = 1 - power;
    double limit = 2 / (1 - h->beta2) - 1, rho = limit - 2 * t * power / bias2;
    double rate = h->lr / (1 - pow(h->beta1, t));
    bool adaptive = rho > 5;
    if (adaptive)
        rate *=
            sqrt(bias2) * sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho));
    *(radam_constants *)out =
        (radam_constants){.beta1 = (float)h->beta1,
                          .one_minus_beta1 = (float)(1 - h->beta1),
                          .beta2 = (float)h->beta2,
                          .one_minus_beta2 = (float)(1 - h->beta2),
                          .eps = (float)o->eps,
                          .rate = (float)rate,
                          .l2 = o->decoupled_weight_decay ? 0 : (float)h->weight_decay,
                          .decay = o->decoupled_weight_decay ? (float)(h->lr * h->weight_decay) : 0,
                          .adaptive = adaptive};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const states[] = {"exp_avg", "exp_avg_sq"};
    static const elementwise_fn kernels[] = SIMD_TABLE(radam_run);
    _Static_assert(sizeof(radam_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const radam_options *o = options;
    elementwise_optim plan = {.options = o,
                              .states = states,
                              .state_count = 2,
                              .maximize = o->maximize,
                              .constants = constants};
    return elementwise_create(host, env, &plan, kernels, self);
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = elementwise_describe};

static const zds_plugin plugin = {
    OPTIM_PLUGIN("RAdam", options_table, radam_options, ops, "Adam that starts as plain momentum")};

ZDS_PLUGINS(&plugin);
