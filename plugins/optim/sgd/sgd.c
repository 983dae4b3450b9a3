/* SGD, and MuSGD, whose rates follow the width of each parameter (see common/mup.h): options and
 * life of an instance. The formula is in sgd_kernel.c; options and defaults are torch's, to which
 * mup's function MuSGD passes them on. */
#include "optim/sgd/sgd.h"
#include "common/mup.h"

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

static void constants(const elementwise_optim *optim, const zds_tile *tile, double divisor,
                      void *out)
{
    const sgd_options *o = optim->options;
    const zds_hyper *hyper = tile->hyper;
    bool first = counts(o) && *(const int64_t *)tile->states[1] == 1;
    *(sgd_constants *)out = (sgd_constants){.lr = (float)(hyper->lr / divisor),
                                            .weight_decay = (float)(hyper->weight_decay * divisor),
                                            .momentum = first ? 0 : (float)hyper->momentum,
                                            .weight = first ? 1 : (float)(1 - o->dampening),
                                            .nesterov = (float)hyper->momentum,
                                            .is_nesterov = o->nesterov};
}

static void sgd_plain_constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                                void *out)
{
    (void)step;
    constants(optim, tile, 1, out);
}

static void musgd_constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                            void *out)
{
    (void)step;
    constants(optim, tile, mup_sgd_divisor(tile->param), out);
}

static zds_status create(const zds_host *host, const sgd_options *o, const zds_optim_env *env,
                         elementwise_optim *plan, void **self)
{
    static const char *const states[] = {"momentum_buffer"};
    static const elementwise_fn plain[] = SIMD_TABLE(sgd_run);
    static const elementwise_fn momentum[] = SIMD_TABLE(sgd_run_momentum);
    _Static_assert(sizeof(sgd_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    if (o->nesterov && (o->momentum <= 0 || o->dampening != 0))
        return host->fail(host, ZDS_ERR_CONFIG,
                          "nesterov needs a momentum above 0 and a dampening of 0, not %g and %g",
                          o->momentum, o->dampening);
    plan->options = o;
    plan->states = states;
    plan->state_count = o->momentum != 0;
    plan->maximize = o->maximize;
    return elementwise_create(host, env, plan, o->momentum != 0 ? momentum : plain, self);
}

static zds_status sgd_create(const zds_host *host, const void *options, const zds_optim_env *env,
                             void **self)
{
    return create(host, options, env, &(elementwise_optim){.constants = sgd_plain_constants}, self);
}

static zds_status musgd_create(const zds_host *host, const void *options, const zds_optim_env *env,
                               void **self)
{
    return create(host, options, env, &(elementwise_optim){.constants = musgd_constants}, self);
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    const elementwise_optim *optim = self;
    elementwise_describe(self, param, needs);
    if (counts(optim->options))
        zds_add_state(needs, &(zds_state_spec){.name = "step",
                                               .kind = ZDS_STATE_TENSOR,
                                               .dtype = ZDS_I64,
                                               .bytes = sizeof(int64_t)});
    const sgd_options *o = optim->options;
    return elementwise_group_momentum(optim, needs, o->momentum);
}

static zds_status begin_step(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    const elementwise_optim *optim = self;
    if (optim->constants == musgd_constants)
        mup_warn(optim->host, params, ctx);
    if (!counts(optim->options))
        return ZDS_OK;
    for (size_t i = 0; i < params->count; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        if (p->has_grad)
            ++*(int64_t *)p->states[1];
    }
    return ZDS_OK;
}

static const zds_optim_ops sgd_ops = {ELEMENTWISE_OPS(sgd_create), .describe = describe,
                                      .begin_step = begin_step};
static const zds_optim_ops musgd_ops = {ELEMENTWISE_OPS(musgd_create), .describe = describe,
                                        .begin_step = begin_step};

static const zds_plugin sgd_plugin = {
    OPTIM_PLUGIN("SGD", options_table, sgd_options, sgd_ops,
                 "stochastic gradient descent, with momentum or without")};
static const zds_plugin musgd_plugin = {OPTIM_PLUGIN("MuSGD", options_table, sgd_options, musgd_ops,
                                                     "SGD whose rates follow the width (muP)")};

ZDS_PLUGINS(&sgd_plugin, &musgd_plugin);
