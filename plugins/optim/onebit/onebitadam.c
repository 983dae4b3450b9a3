/* OneBitAdam: Tang et al. 2021, "1-bit Adam: Communication Efficient Large-Scale Training with
 * Adam's Convergence Speed", algorithm 1; options and formula are those of DeepSpeed 0.16's
 * OnebitAdam, but that no gradient is lost to set-up.
 *
 *     steps 1 .. freeze_step, on the mean g of the ranks' gradients:
 *         m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g^2
 *     later steps, on this rank's own g (v stays):
 *         m = 1-bit mean of the ranks' beta1 m + (1 - beta1) g
 *     p = p - lr (m / (sqrt(v) + eps) + weight_decay p) */
#include <string.h>

#include "optim/onebit/onebit.h"

typedef struct adam_options {
    onebit_options common;
    int64_t freeze_step;
} adam_options;

static const zds_option options_table[] = {
    ONEBIT_OPTIONS,
    ONEBIT_COUNT(adam_options, freeze_step, "100000",
                 "steps with whole gradients, after which the mean square is frozen and the "
                 "momentum travels in 1 bit an element"),
};

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    onebit_describe(self, needs);
    onebit_describe_errors(self, needs, ZDS_STATE_TENSOR, param->numel);
    return ZDS_OK;
}

static int32_t reduction_mode(void *self, int64_t step)
{
    const onebit *o = self;
    const adam_options *options = o->base.options;
    return step <= options->freeze_step ? ZDS_REDUCE_MEAN : ZDS_REDUCE_LOCAL;
}

typedef struct collective {
    onebit *o;
    const zds_param_steps *params;
    float grad_scale;
} collective;

static void load(void *user, size_t vector, size_t block, uint64_t first, size_t count, float *out)
{
    (void)block;
    const collective *c = user;
    const zds_param_step *p = zds_param_step_at(c->params, vector);
    onebit_constants k;
    onebit_fill_constants(c->o->base.options, p->hyper, &k);
    onebit_momentum m = {.exp_avg = (const float *)p->states[0] + first,
                         .grad = onebit_grad_at(p, first),
                         .grad_dtype = p->grad_dtype,
                         .grad_scale = c->grad_scale,
                         .beta1 = k.beta1,
                         .one_minus_beta1 = k.one_minus_beta1,
                         .factor = 1};
    c->o->average.kernels->momentum(&m, count, out);
}

/* The momentum is the same on all ranks; the weight moves where this rank updates it. */
static void store(void *user, size_t vector, size_t block, uint64_t first, size_t count,
                  const float *mean)
{
    (void)block;
    const collective *c = user;
    const zds_param_step *p = zds_param_step_at(c->params, vector);
    onebit_constants k;
    onebit_fill_constants(c->o->base.options, p->hyper, &k);
    memcpy((float *)p->states[0] + first, mean, count * sizeof *mean);
    onebit_update(c->o, c->o->given, p, &k, first, count, mean);
}

static zds_status step_collective(void *self, const zds_param_steps *params,
                                  const zds_comm_ops *comm, void *comm_self,
                                  const zds_step_ctx *ctx)
{
    onebit *o = self;
    zds_status status = onebit_vectors(o, params->count);
    if (status)
        return status;
    for (size_t i = 0; i < params->count; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        if (!p->has_grad)
            continue;
        o->vectors[i] = (average_vector){.count = p->param->numel};
        if (o->world > 1) {
            o->vectors[i].worker = p->states[2];
            o->vectors[i].server = p->states[3];
        }
    }
    collective c = {o, params, (float)ctx->grad_scale};
    average_work work = {
        .count = params->count, .vectors = o->vectors, .load = load, .store = store, .user = &c};
    return average_run(&o->average, &work, comm, comm_self);
}

static const zds_optim_ops ops = {ONEBIT_OPS(onebit_create_adam, describe, onebit_destroy),
                                  .reduction_mode = reduction_mode,
                                  .step_collective = step_collective, .prepare = onebit_prepare};

const zds_plugin onebit_adam_plugin = {
    OPTIM_PLUGIN("OneBitAdam", options_table, adam_options, ops,
                 "Adam whose momentum travels in 1 bit an element once the mean square is frozen")};
