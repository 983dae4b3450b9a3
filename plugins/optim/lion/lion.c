/* Lion: options and constants. The formula is in lion_kernel.c; options and defaults are those of
 * DeepSpeed 0.19's FusedLion and DeepSpeedCPULion. */
#include "optim/lion/lion.h"

typedef struct lion_options {
    double lr, betas[2], weight_decay;
    bool fp32_optimizer_states, set_grad_none;
} lion_options;

static const zds_option options_table[] = {
    OPTION_LR(lion_options, "0.001"),
    OPTION_BETAS(lion_options, "[0.9, 0.999]",
                 "weight of the running mean in the step, and its own decay"),
    OPTION_WEIGHT_DECAY(lion_options, "decoupled weight decay"),
    OPTION_NO_EFFECT(lion_options, fp32_optimizer_states, "true",
                     "bf16.bf16_optimizer_states decides in which type the running mean is kept"),
    OPTION_NO_EFFECT(lion_options, set_grad_none, "true",
                     "the engine owns the gradients, and never clears them in a pass of its own"),
};

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const zds_hyper *h = tile->hyper;
    (void)optim;
    (void)step;
    *(lion_constants *)out = (lion_constants){.beta1 = (float)h->beta1,
                                              .one_minus_beta1 = (float)(1 - h->beta1),
                                              .beta2 = (float)h->beta2,
                                              .one_minus_beta2 = (float)(1 - h->beta2),
                                              .lr = (float)h->lr,
                                              .decay = (float)(h->lr * h->weight_decay)};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const states[] = {"exp_avg"};
    static const elementwise_fn kernels[] = SIMD_TABLE(lion_run);
    _Static_assert(sizeof(lion_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    elementwise_optim plan = {
        .options = options, .states = states, .state_count = 1, .constants = constants};
    return elementwise_create(host, env, &plan, kernels, self);
}

/* DeepSpeedCPULion allocates a second moment that it never touches, and its checkpoints hold it. */
static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    zds_status status = elementwise_describe(self, param, needs);
    zds_add_state(needs, &(zds_state_spec){.name = "exp_avg_sq",
                                           .kind = ZDS_STATE_CONSTANT,
                                           .dtype = ZDS_F32,
                                           .initial = 0});
    return status;
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = describe};

static const zds_plugin plugin = {OPTIM_PLUGIN("Lion", options_table, lion_options, ops,
                                               "the sign of a running mean, with decoupled decay")};

ZDS_PLUGINS(&plugin);
