/* ZeroOneAdam: Lu et al. 2022, "Maximizing Communication Efficiency for Large-scale Training via
 * 0/1 Adam", algorithm 1; options, policies and formula are those of DeepSpeed 0.16's ZeroOneAdam,
 * but that no step is lost to set-up. With D = sqrt(v) + eps:
 *
 *     steps 1 .. var_freeze_step. The mean square moves at multiples of an interval, which is 1 and
 *     doubles after each var_update_scaler such moves; there, on the mean g of the gradients:
 *         m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g^2
 *     at the other steps, on the 1-bit mean g of the ranks' gradients, m alone moves
 *         p = p - lr (m / D + weight_decay p)
 *     later steps (v stays, errors start again at 0), each rank on its own g:
 *         m = beta1 m + (1 - beta1) g      d = -lr (m / D + weight_decay p)
 *         p = p + d      u = u + d      R = R + lr
 *     and at multiples of an interval, which is 1, doubles after each local_step_scaler such steps
 *     and ends at local_step_clipper, all ranks come together again:
 *         x = 1-bit mean of the ranks' u D
 *         m = -x / R      p = p of the last meeting + x / D      u = 0      R = 0
 *
 * The reference comes back to the last meeting by p - u, whose rounding drives the ranks apart by
 * and by; here that p is kept. It leaves m as it is between the moves of v on one rank; here one
 * rank's own gradient is the mean. */
#include <string.h>

#include "optim/onebit/onebit.h"

typedef struct zero_one_options {
    onebit_options common;
    int64_t var_freeze_step, var_update_scaler, local_step_scaler, local_step_clipper;
} zero_one_options;

static const zds_option options_table[] = {
    ONEBIT_OPTIONS,
    ONEBIT_COUNT(zero_one_options, var_freeze_step, "100000",
                 "last step in which the mean square may move"),
    ONEBIT_COUNT(zero_one_options, var_update_scaler, "16",
                 "moves of the mean square after which the interval between them doubles"),
    ONEBIT_COUNT(zero_one_options, local_step_scaler, "32678",
                 "local steps after which the interval between meetings doubles"),
    ONEBIT_COUNT(zero_one_options, local_step_clipper, "16",
                 "largest interval between meetings of the ranks"),
};

enum { EXP_AVG = 0, EXP_AVG_SQ = 1, MOVED = 2, SYNCED = 3, DRIFT = 4, WORKER = 5, SERVER = 6 };

/* A TENSOR state. */
typedef struct drift {
    double rates;  /* R, with this step's */
    double starts; /* 1: before this step the parameter had not moved since the last meeting */
} drift;

static drift *drift_of(const zds_param_step *p)
{
    return p->states[DRIFT];
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    const onebit *o = self;
    onebit_describe(o, needs);
    zds_state_spec own = {.name = "momentum_accumulator",
                          .kind = ZDS_STATE_ELEMENT,
                          .dtype = ZDS_F32,
                          .scope = ZDS_SCOPE_RANK_LOCAL};
    zds_add_state(needs, &own);
    own.name = "synced";
    zds_add_state(needs, &own);
    zds_add_state(needs, &(zds_state_spec){
                             .name = "drift", .kind = ZDS_STATE_TENSOR, .bytes = sizeof(drift)});
    onebit_describe_errors(o, needs, ZDS_STATE_TENSOR, param->numel);
    return ZDS_OK;
}

/* === policies: functions of the step alone === */

/* Whether the mean square moves. The interval 2^j holds from the step `begin` on for
 * var_update_scaler of its multiples. */
static bool variance_moves(const zero_one_options *o, int64_t step)
{
    int64_t begin = 0;
    for (int j = 0; j < 62; j++) {
        int64_t interval = (int64_t)1 << j, multiples = begin >> j;
        if (o->var_update_scaler > (INT64_MAX >> j) - multiples)
            return step % interval == 0;
        int64_t end = (multiples + o->var_update_scaler) << j;
        if (step <= end)
            return step % interval == 0;
        begin = end;
    }
    return false;
}

static bool is_local(const zero_one_options *o, int64_t step)
{
    return step > o->var_freeze_step;
}

/* Whether the ranks come together in a local step. */
static bool meets(const zero_one_options *o, int64_t step)
{
    int64_t doublings = (step - o->var_freeze_step - 1) / o->local_step_scaler, interval = 1;
    for (int64_t j = 0; j < doublings && interval < o->local_step_clipper; j++)
        interval = 2 * interval < o->local_step_clipper ? 2 * interval : o->local_step_clipper;
    return step % interval == 0;
}

static int32_t reduction_mode(void *self, int64_t step)
{
    const onebit *o = self;
    const zero_one_options *options = o->base.options;
    return !is_local(options, step) && variance_moves(options, step) ? ZDS_REDUCE_MEAN
                                                                     : ZDS_REDUCE_LOCAL;
}

/* === steps === */

typedef struct collective {
    onebit *o;
    const zds_param_steps *params;
    float grad_scale;
} collective;

static void load_grad(void *user, size_t vector, size_t block, uint64_t first, size_t count,
                      float *out)
{
    (void)block;
    const collective *c = user;
    const zds_param_step *p = zds_param_step_at(c->params, vector);
    onebit_momentum m = {.grad = onebit_grad_at(p, first),
                         .grad_dtype = p->grad_dtype,
                         .grad_scale = c->grad_scale,
                         .one_minus_beta1 = 1,
                         .factor = 1};
    c->o->average.kernels->momentum(&m, count, out);
}

static void store_grad(void *user, size_t vector, size_t block, uint64_t first, size_t count,
                       const float *mean)
{
    (void)block;
    const collective *c = user;
    const zds_param_step *p = zds_param_step_at(c->params, vector);
    onebit_constants k;
    onebit_fill_constants(c->o->base.options, p->hyper, &k);
    onebit_update(c->o, c->o->frozen, p, &k, first, count, mean);
}

static onebit_local local_at(const collective *c, const zds_param_step *p, uint64_t first,
                             onebit_constants *k)
{
    onebit_fill_constants(c->o->base.options, p->hyper, k);
    return (onebit_local){
        .exp_avg = (float *)p->states[EXP_AVG] + first,
        .exp_avg_sq = (const float *)p->states[EXP_AVG_SQ] + first,
        .drift = (float *)p->states[MOVED] + first,
        .synced = (float *)p->states[SYNCED] + first,
        .master = (float *)p->master + first,
        .output = p->output ? (char *)p->output + first * zds_dtype_size(p->output_dtype) : NULL,
        .output_dtype = p->output_dtype,
        .grad_dtype = p->grad_dtype,
        .grad = onebit_grad_at(p, first),
        .grad_scale = c->grad_scale,
        .starts = drift_of(p)->starts != 0,
        .still = !p->has_grad,
        .constants = k};
}

static void load_drift(void *user, size_t vector, size_t block, uint64_t first, size_t count,
                       float *out)
{
    (void)block;
    const collective *c = user;
    onebit_constants k;
    onebit_local l = local_at(c, zds_param_step_at(c->params, vector), first, &k);
    c->o->average.kernels->local_drift(&l, count, out);
}

static void store_drift(void *user, size_t vector, size_t block, uint64_t first, size_t count,
                        const float *mean)
{
    (void)block;
    const collective *c = user;
    const zds_param_step *p = zds_param_step_at(c->params, vector);
    onebit_constants k;
    onebit_local l = local_at(c, p, first, &k);
    c->o->average.kernels->local_sync(&l, count, mean, (float)(1 / drift_of(p)->rates));
}

typedef struct local_pass {
    const collective *c;
    const zds_param_step *param;
} local_pass;

static void local_block(void *arg, size_t i)
{
    const local_pass *l = arg;
    uint64_t first = (uint64_t)i * AVERAGE_BLOCK, left = l->param->param->numel - first;
    onebit_constants k;
    onebit_local piece = local_at(l->c, l->param, first, &k);
    l->c->o->average.kernels->local(&piece, (size_t)(left < AVERAGE_BLOCK ? left : AVERAGE_BLOCK));
}

static void step_alone(const collective *c, const zds_param_step *p)
{
    const zds_host *host = c->o->base.host;
    local_pass l = {c, p};
    host->parallel_for(host, (size_t)((p->param->numel + AVERAGE_BLOCK - 1) / AVERAGE_BLOCK),
                       local_block, &l);
}

/* The errors so far are of gradients; what travels from now on is something else. */
static void forget_errors(const onebit *o, const zds_param_step *p)
{
    uint64_t bytes = average_padded(p->param->numel, o->world) * sizeof(float);
    if (o->world == 1 || !bytes)
        return;
    memset(p->states[WORKER], 0, bytes);
    memset(p->states[SERVER], 0, bytes / (uint64_t)o->world);
}

/* One parameter's part in a local step; true if what it has moved is to travel, which is also so if
 * it has no gradient this time. At a rate of 0 all the way from the last meeting it has not moved.
 */
static bool local_step(const collective *c, const zds_param_step *p, bool meeting)
{
    drift *d = drift_of(p);
    d->starts = d->rates == 0;
    d->rates += p->has_grad ? p->hyper->lr : 0;
    bool travels = meeting && d->rates > 0;
    if (p->has_grad && !travels)
        step_alone(c, p);
    return travels;
}

static zds_status step_collective(void *self, const zds_param_steps *params,
                                  const zds_comm_ops *comm, void *comm_self,
                                  const zds_step_ctx *ctx)
{
    onebit *o = self;
    const zero_one_options *options = o->base.options;
    bool local = is_local(options, ctx->step);
    collective c = {o, params, (float)ctx->grad_scale};
    zds_status status = onebit_vectors(o, params->count);
    if (status)
        return status;
    bool meeting = local && meets(options, ctx->step);
    for (size_t i = 0; i < params->count; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        if (ctx->step == options->var_freeze_step + 1)
            forget_errors(o, p);
        if (local ? !local_step(&c, p, meeting) : !p->has_grad)
            continue;
        o->vectors[i].count = p->param->numel;
        if (o->world > 1) {
            o->vectors[i].worker = p->states[WORKER];
            o->vectors[i].server = p->states[SERVER];
        }
    }
    if (local && !meeting)
        return ZDS_OK;
    average_work work = {.count = params->count,
                         .vectors = o->vectors,
                         .load = local ? load_drift : load_grad,
                         .store = local ? store_drift : store_grad,
                         .user = &c};
    status = average_run(&o->average, &work, comm, comm_self);
    for (size_t i = 0; local && i < params->count; i++)
        drift_of(zds_param_step_at(params, i))->rates = 0;
    return status;
}

static const zds_optim_ops ops = {ONEBIT_OPS(onebit_create_adam, describe, onebit_destroy),
                                  .flags = ZDS_OPTIM_PARAMS_DIVERGE,
                                  .reduction_mode = reduction_mode,
                                  .step_collective = step_collective, .prepare = onebit_prepare};

const zds_plugin zero_one_adam_plugin = {
    OPTIM_PLUGIN("ZeroOneAdam", options_table, zero_one_options, ops,
                 "Adam with 1-bit gradients, and local steps once the mean square is frozen")};
