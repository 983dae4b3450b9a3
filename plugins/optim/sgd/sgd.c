/* SGD: options and life of an instance. The formula is in sgd_kernel.h. */
#include "optim/sgd/sgd.h"

typedef struct sgd_options {
    double lr, momentum, dampening, weight_decay;
    bool nesterov, maximize;
} sgd_options;

static const zds_option options_table[] = {
    OPTION_LR(sgd_options, "0.001"),
    OPTION_NUMBER(sgd_options, momentum, "0", 0,
                  "decay of the sum of gradients that is followed; 0: the gradient itself"),
    OPTION_NUMBER(sgd_options, dampening, "0", -INFINITY,
                  "a gradient enters the sum times 1 - dampening; the first enters whole"),
    OPTION_WEIGHT_DECAY(sgd_options, "L2 penalty, added to the gradient"),
    OPTION_FLAG(sgd_options, nesterov, "false",
                "look one step ahead; needs momentum, and no dampening"),
    OPTION_MAXIMIZE(sgd_options),
};

/* With a dampening the first gradient's weight differs, and a parameter may get its first gradient
 * in any step: its steps are counted in a TENSOR state, after the buffer. */
static bool counts(const sgd_options *o)
{
    return o->momentum != 0 && o->dampening != 0;
}

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const sgd_options *o = optim->options;
    const zds_hyper *hyper = tile->hyper;
    bool first = counts(o) && *(const int64_t *)tile->states[1] == 1;
    (void)step;
    *(sgd_constants *)out = (sgd_constants){.lr = (float)hyper->lr,
                                            .weight_decay = (float)hyper->weight_decay,
                                            .momentum = first ? 0 : (float)hyper->momentum,
                                            .weight = first ? 1 : (float)(1 - o->dampening),
                                            .nesterov = (float)hyper->momentum,
                                            .is_nesterov = o->nesterov};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const states[] = {"momentum_buffer"};
    static const elementwise_fn plain[] = SIMD_TABLE(sgd_run);
    static const elementwise_fn momentum[] = SIMD_TABLE(sgd_run_momentum);
    _Static_assert(sizeof(sgd_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const sgd_options *o = options;
    if (o->nesterov && (o->momentum <= 0 || o->dampening != 0))
        return host->fail(host, ZDS_ERR_CONFIG,
                          "nesterov needs a momentum above 0 and a dampening of 0, not %g and %g",
                          o->momentum, o->dampening);
    elementwise_optim plan = {.options = o,
                              .states = states,
                              .state_count = o->momentum != 0,
                              .maximize = o->maximize,
                              .constants = constants};
    return elementwise_create(host, env, &plan, o->momentum != 0 ? momentum : plain, self);
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    const elementwise_optim *optim = self;
    elementwise_describe(self, param, needs);
    if (counts(optim->options))
        needs->states[needs->state_count++] = (zds_state_spec){
            .name = "step", .kind = ZDS_STATE_TENSOR, .dtype = ZDS_I64, .bytes = sizeof(int64_t)};
    const sgd_options *o = optim->options;
    return elementwise_group_momentum(optim, needs, o->momentum);
}

static zds_status begin_step(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    const elementwise_optim *optim = self;
    (void)ctx;
    if (!counts(optim->options))
        return ZDS_OK;
    for (size_t i = 0; i < params->count; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        if (p->has_grad)
            ++*(int64_t *)p->states[1];
    }
    return ZDS_OK;
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = describe,
                                  .begin_step = begin_step};

static const zds_plugin plugin = {
    OPTIM_PLUGIN("SGD", options_table, sgd_options, ops,
                 "stochastic gradient descent, with momentum or without")};

ZDS_PLUGINS(&plugin);
