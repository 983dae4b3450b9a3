/* ASGD: options and the rates of a step. The formula is in asgd_kernel.c; options and defaults are
 * those of torch.optim.ASGD. */
#include "optim/asgd/asgd.h"

typedef struct asgd_options {
    double lr, lambd, alpha, t0, weight_decay;
    bool maximize;
} asgd_options;

static const zds_option options_table[] = {
    OPTION_LR(asgd_options, "0.01"),
    OPTION_NUMBER(asgd_options, lambd, "1e-4", 0, "decay of the weights, and of the rate"),
    OPTION_NUMBER(asgd_options, alpha, "0.75", 0, "the rate is lr / (1 + lambd * lr * step)^alpha"),
    OPTION_NUMBER(asgd_options, t0, "1e6", -INFINITY,
                  "the step after which the average starts; before, it is the parameter"),
    OPTION_WEIGHT_DECAY(asgd_options, "L2 penalty, added to the gradient"),
    OPTION_MAXIMIZE(asgd_options),
};

/* The TENSOR state after `ax`. A step uses what the one before left, as in torch. */
typedef struct schedule {
    int64_t step; /* steps in which the parameter had a gradient */
    double eta, mu, next_eta, next_mu;
} schedule;

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const asgd_options *o = optim->options;
    const schedule *now = tile->states[1];
    (void)step;
    *(asgd_constants *)out = (asgd_constants){.eta = (float)now->eta,
                                              .keep = (float)(1 - o->lambd * now->eta),
                                              .weight_decay = (float)tile->hyper->weight_decay,
                                              .mu = (float)now->mu};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const states[] = {"ax"};
    static const elementwise_fn kernels[] = SIMD_TABLE(asgd_run);
    _Static_assert(sizeof(asgd_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const asgd_options *o = options;
    elementwise_optim plan = {.options = o,
                              .states = states,
                              .state_count = 1,
                              .maximize = o->maximize,
                              .constants = constants};
    return elementwise_create(host, env, &plan, kernels, self);
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    zds_status status = elementwise_describe(self, param, needs);
    zds_add_state(needs, &(zds_state_spec){.name = "schedule",
                                           .kind = ZDS_STATE_TENSOR,
                                           .dtype = ZDS_F64,
                                           .bytes = sizeof(schedule)});
    needs->states[0].starts = ZDS_STARTS_AS_PARAM; /* as the first step would leave it */
    needs->eval_state = 1;
    return status;
}

static zds_status begin_step(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    const elementwise_optim *optim = self;
    const asgd_options *o = optim->options;
    (void)ctx;
    for (size_t i = 0; i < params->count; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        schedule *s = p->states[1];
        double lr = p->hyper->lr;
        if (!p->has_grad)
            continue;
        if (s->step == 0) {
            s->next_eta = lr;
            s->next_mu = 1;
        }
        s->eta = s->next_eta;
        s->mu = s->next_mu;
        s->step++;
        s->next_eta = lr / pow(1 + o->lambd * lr * (double)s->step, o->alpha);
        s->next_mu = 1 / fmax(1, (double)s->step - o->t0);
    }
    return ZDS_OK;
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = describe,
                                  .begin_step = begin_step};

static const zds_plugin plugin = {OPTIM_PLUGIN("ASGD", options_table, asgd_options, ops,
                                               "SGD with a falling rate and averaged weights")};

ZDS_PLUGINS(&plugin);
