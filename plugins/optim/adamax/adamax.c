/* Adamax: options and constants. The formula is in adamax_kernel.c. */
#include "optim/adamax/adamax.h"

typedef struct adamax_options {
    double lr, betas[2], eps, weight_decay;
    bool maximize;
} adamax_options;

static const zds_option options_table[] = {
    OPTION_LR(adamax_options, "0.002"),
    OPTION_BETAS(adamax_options, "[0.9, 0.999]",
                 "decay of the running mean of the gradient, and of its largest magnitude"),
    OPTION_EPS(adamax_options, "1e-8", "added to the gradient's magnitude"),
    OPTION_WEIGHT_DECAY(adamax_options, "L2 penalty, added to the gradient"),
    OPTION_MAXIMIZE(adamax_options),
};

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const adamax_options *o = optim->options;
    const zds_hyper *h = tile->hyper;
    *(adamax_constants *)out =
        (adamax_constants){.beta1 = (float)h->beta1,
                           .one_minus_beta1 = (float)(1 - h->beta1),
                           .beta2 = (float)h->beta2,
                           .eps = (float)o->eps,
                           .weight_decay = (float)h->weight_decay,
                           .rate = (float)(h->lr / (1 - pow(h->beta1, (double)step)))};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const states[] = {"exp_avg", "exp_inf"};
    static const elementwise_fn kernels[] = SIMD_TABLE(adamax_run);
    _Static_assert(sizeof(adamax_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const adamax_options *o = options;
    elementwise_optim plan = {.options = o,
                              .states = states,
                              .state_count = 2,
                              .maximize = o->maximize,
                              .constants = constants};
    return elementwise_create(host, env, &plan, kernels, self);
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = elementwise_describe};

static const zds_plugin plugin = {
    OPTIM_PLUGIN("Adamax", options_table, adamax_options, ops, "Adam with the infinity norm")};

ZDS_PLUGINS(&plugin);
