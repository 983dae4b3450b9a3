/* NAdam: options and constants. The formula is in nadam_kernel.c. */
#include "optim/nadam/nadam.h"

typedef struct nadam_options {
    double lr, betas[2], eps, weight_decay, momentum_decay;
    bool decoupled_weight_decay, maximize;
} nadam_options;

static const zds_option options_table[] = {
    OPTION_LR(nadam_options, "0.002"),
    OPTION_BETAS(nadam_options, "[0.9, 0.999]",
                 "decay of the running means of the gradient and of its square"),
    OPTION_EPS(nadam_options, "1e-8", "added to the denominator, outside the root"),
    OPTION_WEIGHT_DECAY(nadam_options, "weight decay, added to the gradient unless decoupled"),
    OPTION_NUMBER(nadam_options, momentum_decay, "0.004", 0,
                  "how fast the momentum nears beta1, from half of it"),
    OPTION_FLAG(nadam_options, decoupled_weight_decay, "false",
                "weight decay acts on the weight, as in AdamW"),
    OPTION_MAXIMIZE(nadam_options),
};

static double momentum_at(const nadam_options *o, const zds_hyper *h, int64_t step)
{
    return h->beta1 * (1 - 0.5 * pow(0.96, (double)step * o->momentum_decay));
}

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const nadam_options *o = optim->options;
    const zds_hyper *h = tile->hyper;
    double mu = momentum_at(o, h, step), next = momentum_at(o, h, step + 1);
    double rest = *(const double *)tile->states[2]; /* 1 - the product of all momenta */
    *(nadam_constants *)out = (nadam_constants){
        .beta1 = (float)h->beta1,
        .one_minus_beta1 = (float)(1 - h->beta1),
        .beta2 = (float)h->beta2,
        .one_minus_beta2 = (float)(1 - h->beta2),
        .eps = (float)o->eps,
        .inverse_sqrt_bias2 = (float)(1 / sqrt(1 - pow(h->beta2, (double)step))),
        .grad_rate = (float)(h->lr * (1 - mu) / rest),
        .mean_rate = (float)(h->lr * next / (1 - (1 - rest) * next)),
        .l2 = o->decoupled_weight_decay ? 0 : (float)h->weight_decay,
        .decay = o->decoupled_weight_decay ? (float)(h->lr * h->weight_decay) : 0};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const states[] = {"exp_avg", "exp_avg_sq"};
    static const elementwise_fn kernels[] = SIMD_TABLE(nadam_run);
    _Static_assert(sizeof(nadam_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const nadam_options *o = options;
    elementwise_optim plan = {.options = o,
                              .states = states,
                              .state_count = 2,
                              .maximize = o->maximize,
                              .constants = constants};
    return elementwise_create(host, env, &plan, kernels, self);
}

/* torch keeps the product of all momenta; its distance from 1 is kept here, since such a state
 * starts as zero bytes. */
static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    elementwise_describe(self, param, needs);
    zds_add_state(needs, &(zds_state_spec){.name = "one_minus_mu_product",
                                           .kind = ZDS_STATE_TENSOR,
                                           .dtype = ZDS_F64,
                                           .bytes = sizeof(double)});
    return ZDS_OK;
}

static zds_status begin_step(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    const elementwise_optim *optim = self;
    for (size_t i = 0; i < params->count; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        double *rest = p->states[2];
        if (p->has_grad)
            *rest = 1 - (1 - *rest) * momentum_at(optim->options, p->hyper, ctx->step);
    }
    return ZDS_OK;
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = describe,
                                  .begin_step = begin_step};

static const zds_plugin plugin = {
    OPTIM_PLUGIN("NAdam", options_table, nadam_options, ops, "Adam with Nesterov's momentum")};

ZDS_PLUGINS(&plugin);
