/* Lamb: options and constants. The formula is in lamb_kernel.c; options and defaults are those of
 * DeepSpeed 0.19's FusedLamb, which needs a GPU and refuses ZeRO; here neither matters. */
#include "optim/lamb/lamb.h"

typedef struct lamb_options {
    double lr, betas[2], eps, weight_decay, max_grad_norm, max_coeff, min_coeff;
    bool bias_correction, eps_inside_sqrt, amsgrad;
} lamb_options;

static const zds_option options_table[] = {
    OPTION_LR(lamb_options, "0.001"),
    OPTION_FLAG(lamb_options, bias_correction, "true",
                "multiply the rate by sqrt(1 - beta2^step) / (1 - beta1^step)"),
    OPTION_BETAS(lamb_options, "[0.9, 0.999]",
                 "decay of the running means of the gradient and of its square"),
    OPTION_EPS(lamb_options, "1e-8", "added to the denominator, see eps_inside_sqrt"),
    OPTION_FLAG(lamb_options, eps_inside_sqrt, "false", "add eps to the mean square, not its root"),
    OPTION_WEIGHT_DECAY(lamb_options, "decoupled weight decay, scaled like the update"),
    OPTION_MAX_GRAD_NORM(lamb_options),
    OPTION_NUMBER(lamb_options, max_coeff, "10", 0,
                  "largest factor by which a tensor's update is scaled"),
    OPTION_NUMBER(lamb_options, min_coeff, "0.01", 0,
                  "least factor by which a tensor's update is scaled"),
    OPTION_FLAG(lamb_options, amsgrad, "false", "refused if true, as DeepSpeed's FusedLamb does"),
};

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const lamb_options *o = optim->options;
    const zds_hyper *h = tile->hyper;
    double rate = h->lr;
    if (o->bias_correction)
        rate *= sqrt(1 - pow(h->beta2, (double)step)) / (1 - pow(h->beta1, (double)step));
    *(lamb_constants *)out = (lamb_constants){.beta1 = (float)h->beta1,
                                              .one_minus_beta1 = (float)(1 - h->beta1),
                                              .beta2 = (float)h->beta2,
                                              .one_minus_beta2 = (float)(1 - h->beta2),
                                              .eps_inside = o->eps_inside_sqrt ? (float)o->eps : 0,
                                              .eps_outside = o->eps_inside_sqrt ? 0 : (float)o->eps,
                                              .weight_decay = (float)h->weight_decay,
                                              .rate = (float)rate,
                                              .min_coeff = o->min_coeff,
                                              .max_coeff = o->max_coeff};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const states[] = {"exp_avg", "exp_avg_sq"};
    static const elementwise_fn kernels[] = SIMD_TABLE(lamb_run);
    static const elementwise_fn norm_kernels[] = SIMD_TABLE(lamb_norms);
    _Static_assert(sizeof(lamb_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const lamb_options *o = options;
    zds_status status = elementwise_no_max_grad_norm(host, o->max_grad_norm);
    if (status)
        return status;
    if (o->amsgrad)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "Lamb has no amsgrad variant; remove amsgrad, or use Adam");
    if (o->min_coeff > o->max_coeff)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "min_coeff %g is above max_coeff %g; exchange or change them",
                          o->min_coeff, o->max_coeff);
    elementwise_optim plan = {.options = o,
                              .states = states,
                              .state_count = 2,
                              .norm_kernels = norm_kernels,
                              .norms = 2,
                              .constants = constants};
    return elementwise_create(host, env, &plan, kernels, self);
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = elementwise_describe,
                                  .norms = elementwise_norms};

static const zds_plugin plugin = {
    OPTIM_PLUGIN("Lamb", options_table, lamb_options, ops,
                 "Adam whose step in each tensor is as long as its weights say")};

ZDS_PLUGINS(&plugin);
