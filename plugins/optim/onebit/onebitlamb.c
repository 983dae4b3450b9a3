/* OneBitLamb: Li et al. 2021, "1-bit LAMB: Communication Efficient Large-Scale Large-Batch Training
 * with LAMB's Convergence Speed", algorithm 1; options and formula are those of DeepSpeed 0.16's
 * OnebitLamb, but that no gradient is lost to set-up. For each tensor p, with u the update
 * m / (sqrt(v) + eps) + weight_decay p:
 *
 *     steps 1 .. freeze_step, on the mean g of the ranks' gradients:
 *         m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g^2
 *         c = clamp(|p| / |u|, min_coeff, max_coeff), 1 where either norm is 0
 *         C = coeff_beta C + (1 - coeff_beta) c unless c is 1      p = p - lr c u
 *     then, once: w = v; S = mean over tensors of their rms(m), over this tensor's
 *     later steps, on this rank's own g (v and C stay):
 *         m' = 1-bit mean of the ranks' S (beta1 m + (1 - beta1) g), over S; all tensors are one
 *              vector on the wire
 *         w = beta2 w + (1 - beta2) ((m' - beta1 m) / (1 - beta1))^2      m = m'
 *         f = max((sqrt(v) + eps) / (sqrt(w) + eps)); with weight decay f r + 1 - r, where
 *             r = min(1, |m / (sqrt(v) + eps)| / |u|); within [factor_min, factor_max], and within
 *             factor_threshold of the last step's f
 *         p = p - lr C f u */
#include <string.h>

#include "optim/onebit/onebit.h"

typedef struct lamb_options {
    onebit_options common;
    int64_t freeze_step;
    double max_coeff, min_coeff, coeff_beta, factor_max, factor_min, factor_threshold;
} lamb_options;

static const zds_option options_table[] = {
    ONEBIT_OPTIONS,
    ONEBIT_COUNT(lamb_options, freeze_step, "100000",
                 "steps with whole gradients, after which the mean square is frozen and the "
                 "momentum travels in 1 bit an element"),
    OPTION_NUMBER(lamb_options, max_coeff, "10", 0,
                  "largest factor by which a tensor's update is scaled, until the freeze"),
    OPTION_NUMBER(lamb_options, min_coeff, "0.01", 0,
                  "least factor by which a tensor's update is scaled, until the freeze"),
    {.name = "coeff_beta",
     .type = ZDS_OPTION_FLOAT,
     .flags = ZDS_OPTION_BELOW_MAX,
     .offset = offsetof(lamb_options, coeff_beta),
     .default_value = "0.9",
     .min = 0,
     .max = 1,
     .doc = "decay of the running mean of that factor, which is frozen too"},
    OPTION_NUMBER(lamb_options, factor_max, "4", 0,
                  "largest value of what scales the frozen factor"),
    OPTION_NUMBER(lamb_options, factor_min, "0.5", 0,
                  "least value of what scales the frozen factor"),
    OPTION_NUMBER(lamb_options, factor_threshold, "0.1", 0,
                  "how much what scales the frozen factor changes at most in a step, of its value"),
};

enum { EXP_AVG = 0, EXP_AVG_SQ = 1, FRESH = 2, COEFFICIENTS = 3, WORKER = 4, SERVER = 5 };

/* A TENSOR state. */
typedef struct coefficients {
    double frozen;      /* C */
    double last_factor; /* f of the last step */
    double scaling;     /* S */
} coefficients;

/* Of the update of one tensor, from the squares of its elements; of all ranks once gathered. */
typedef struct tensor_sums {
    double update_squares, decayed_squares, largest;
} tensor_sums;

typedef struct lamb {
    onebit onebit;
    uint64_t *first;      /* [params + 1]: of each parameter in the vector of all */
    tensor_sums *sums;    /* [params], and [world][params] from all ranks */
    tensor_sums *partial; /* [blocks + params] */
    size_t blocks;
} lamb;

static void fill_constants(const lamb_options *o, const zds_hyper *h, onebit_constants *c)
{
    onebit_fill_constants(&o->common, h, c);
    c->min_coeff = o->min_coeff;
    c->max_coeff = o->max_coeff;
}

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    (void)step;
    fill_constants(optim->options, tile->hyper, out);
}

static zds_status check(const zds_host *host, const lamb_options *o)
{
    if (o->min_coeff > o->max_coeff)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "min_coeff %g is above max_coeff %g; exchange or change them",
                          o->min_coeff, o->max_coeff);
    if (o->factor_min > o->factor_max)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "factor_min %g is above factor_max %g; exchange or change them",
                          o->factor_min, o->factor_max);
    return ZDS_OK;
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const elementwise_fn tiles[] = SIMD_TABLE(onebit_lamb);
    static const elementwise_fn norms[] = SIMD_TABLE(onebit_lamb_norms);
    elementwise_optim plan = {.constants = constants, .norm_kernels = norms, .norms = 2};
    const lamb_options *o = options;
    onebit *made;
    zds_status status = check(host, o);
    if (!status)
        status = onebit_create(host, &o->common, env, sizeof(lamb), &plan, tiles, &made);
    if (!status)
        *self = made;
    return status;
}

static void release(lamb *l)
{
    const zds_host *host = l->onebit.base.host;
    host->free(host, l->first);
    host->free(host, l->sums);
    host->free(host, l->partial);
    l->first = NULL;
    l->sums = l->partial = NULL;
}

static void destroy(void *self)
{
    release(self);
    onebit_destroy(self);
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    const lamb *l = self;
    (void)param;
    onebit_describe(&l->onebit, needs);
    zds_add_state(
        needs,
        &(zds_state_spec){.name = "exp_avg_sq_fresh", .kind = ZDS_STATE_ELEMENT, .dtype = ZDS_F32});
    zds_add_state(needs, &(zds_state_spec){.name = "coefficients",
                                           .kind = ZDS_STATE_TENSOR,
                                           .bytes = sizeof(coefficients)});
    onebit_describe_errors(&l->onebit, needs, ZDS_STATE_GLOBAL, l->onebit.elements);
    return ZDS_OK;
}

static int32_t reduction_mode(void *self, int64_t step)
{
    const lamb *l = self;
    const lamb_options *o = l->onebit.base.options;
    return step <= o->freeze_step ? ZDS_REDUCE_MEAN : ZDS_REDUCE_LOCAL;
}

static zds_status sums_ready(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    const lamb *l = self;
    const lamb_options *o = l->onebit.base.options;
    (void)ctx;
    for (size_t i = 0; i < params->count; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        coefficients *c = p->states[COEFFICIENTS];
        onebit_constants k = {.min_coeff = o->min_coeff, .max_coeff = o->max_coeff};
        double now = p->has_grad ? onebit_lamb_coefficient(&k, p->sums) : 1;
        if (now != 1)
            c->frozen = o->coeff_beta * c->frozen + (1 - o->coeff_beta) * now;
    }
    return ZDS_OK;
}

/* === after the freeze === */

typedef struct collective {
    lamb *l;
    const zds_param_steps *params;
    float grad_scale;
} collective;

static coefficients *coefficients_of(const zds_param_step *p)
{
    return p->states[COEFFICIENTS];
}

/* Lists: the parameters are the same in every step. */
static zds_status prepare(void *self, const zds_param_steps *params)
{
    lamb *l = self;
    const zds_host *host = l->onebit.base.host;
    const average_vector all = {.count = l->onebit.elements};
    const average_work work = {.count = 1, .vectors = &all};
    size_t n = params->count;
    if (!n)
        return ZDS_OK;
    l->blocks = average_blocks(&l->onebit.average, &work);
    l->first = host->alloc(host, (n + 1) * sizeof *l->first, 0);
    l->sums = host->alloc(host, ((size_t)l->onebit.world + 1) * n * sizeof *l->sums, 0);
    l->partial = host->alloc(host, (l->blocks + n) * sizeof *l->partial, 0);
    if (!l->first || !l->sums || !l->partial) {
        release(l);
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for the sums of %zu tensors", n);
    }
    for (size_t i = 0; i < n; i++)
        l->first[i + 1] = l->first[i] + zds_param_step_at(params, i)->param->numel;
    return average_prepare(&l->onebit.average, &work);
}

/* The parameter that element `at` of the vector of all lies in. */
static size_t find(const lamb *l, size_t params, uint64_t at)
{
    size_t low = 0, high = params;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (l->first[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

typedef struct squares_pass {
    const onebit_kernels *kernels;
    const float *x;
    uint64_t count;
    double *sums;
} squares_pass;

static void square_block(void *arg, size_t i)
{
    const squares_pass *s = arg;
    uint64_t first = (uint64_t)i * AVERAGE_BLOCK, left = s->count - first;
    s->sums[i] =
        s->kernels->squares(s->x + first, (size_t)(left < AVERAGE_BLOCK ? left : AVERAGE_BLOCK));
}

static zds_status root_mean_square(const onebit *o, const zds_param_step *p, double *out)
{
    const zds_host *host = o->base.host;
    uint64_t count = p->param->numel;
    size_t blocks = (size_t)((count + AVERAGE_BLOCK - 1) / AVERAGE_BLOCK);
    squares_pass s = {o->average.kernels, p->states[EXP_AVG], count,
                      host->alloc(host, blocks * sizeof(double), 0)};
    double sum = 0;
    if (!s.sums)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for the norm of a tensor");
    host->parallel_for(host, blocks, square_block, &s);
    for (size_t i = 0; i < blocks; i++)
        sum += s.sums[i];
    host->free(host, s.sums);
    *out = count ? sqrt(sum / (double)count) : 0;
    return ZDS_OK;
}

/* At the first step after the freeze: how tensors are scaled, so that one scale on the wire suits
 * all; and the second mean square starts from the frozen one. */
static zds_status freeze(const onebit *o, const zds_param_steps *params)
{
    double total = 0;
    for (size_t i = 0; i < params->count; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        coefficients *c = coefficients_of(p);
        zds_status status = root_mean_square(o, p, &c->scaling);
        if (status)
            return status;
        total += c->scaling;
        c->last_factor = 1;
        if (p->part_count)
            memcpy(p->states[FRESH], p->states[EXP_AVG_SQ], p->part_count * sizeof(float));
    }
    for (size_t i = 0; i < params->count; i++) {
        coefficients *c = coefficients_of(zds_param_step_at(params, i));
        c->scaling = c->scaling > 0 ? total / (double)params->count / c->scaling : 1;
    }
    return ZDS_OK;
}

/* A tensor without a gradient in this step sends its momentum as it is. */
static void load(void *user, size_t vector, size_t block, uint64_t first, size_t count, float *out)
{
    (void)vector, (void)block;
    const collective *c = user;
    size_t i = find(c->l, c->params->count, first);
    for (size_t done = 0; done < count; i++) {
        const zds_param_step *p = zds_param_step_at(c->params, i);
        uint64_t in_param = first + done - c->l->first[i], left = p->param->numel - in_param;
        size_t n = left < count - done ? (size_t)left : count - done;
        onebit_constants k;
        onebit_fill_constants(c->l->onebit.base.options, p->hyper, &k);
        onebit_momentum m = {.exp_avg = (const float *)p->states[EXP_AVG] + in_param,
                             .grad = onebit_grad_at(p, in_param),
                             .grad_dtype = p->grad_dtype,
                             .grad_scale = c->grad_scale,
                             .beta1 = p->has_grad ? k.beta1 : 1,
                             .one_minus_beta1 = p->has_grad ? k.one_minus_beta1 : 0,
                             .factor = (float)coefficients_of(p)->scaling};
        c->l->onebit.average.kernels->momentum(&m, n, out + done);
        done += n;
    }
}

/* The part of one tensor in a block: the new momentum, and sums over what this rank updates. */
static void store_tensor(const collective *c, size_t i, uint64_t in_param, size_t count,
                         const float *mean, tensor_sums *sums)
{
    const zds_param_step *p = zds_param_step_at(c->params, i);
    onebit_constants k;
    onebit_fill_constants(c->l->onebit.base.options, p->hyper, &k);
    stretch own = onebit_owned(p, in_param, count);
    uint64_t edges[] = {in_param, own.count ? own.first : in_param + count,
                        own.count ? own.first + own.count : in_param + count, in_param + count};
    *sums = (tensor_sums){0};
    for (int area = 0; area < 3; area++) { /* before, in and behind this rank's part */
        uint64_t at = edges[area], in_part = at - p->part_first;
        onebit_fresh f = {.exp_avg = (float *)p->states[EXP_AVG] + at,
                          .mean = mean + (at - in_param),
                          .inverse_factor = (float)(1 / coefficients_of(p)->scaling),
                          .constants = &k};
        if (area == 1 && own.count) {
            f.exp_avg_sq = (const float *)p->states[EXP_AVG_SQ] + in_part;
            f.fresh = (float *)p->states[FRESH] + in_part;
            f.master = (const float *)p->master + in_part;
        }
        c->l->onebit.average.kernels->fresh(&f, (size_t)(edges[area + 1] - at));
        if (f.fresh)
            *sums = (tensor_sums){f.update_squares, f.decayed_squares, f.largest};
    }
}

/* Blocks and tensors follow each other, so block + tensor numbers their common parts. */
static void store(void *user, size_t vector, size_t block, uint64_t first, size_t count,
                  const float *mean)
{
    (void)vector;
    const collective *c = user;
    size_t i = find(c->l, c->params->count, first);
    for (size_t done = 0; done < count; i++) {
        const zds_param_step *p = zds_param_step_at(c->params, i);
        uint64_t in_param = first + done - c->l->first[i], left = p->param->numel - in_param;
        size_t n = left < count - done ? (size_t)left : count - done;
        tensor_sums *sums = &c->l->partial[block + i];
        if (p->has_grad && n)
            store_tensor(c, i, in_param, n, mean + done, sums);
        done += n;
    }
}

static void add(tensor_sums *to, const tensor_sums *more)
{
    to->update_squares += more->update_squares;
    to->decayed_squares += more->decayed_squares;
    to->largest = more->largest > to->largest ? more->largest : to->largest;
}

/* Of the blocks in order. */
static void sum_blocks(lamb *l, size_t params)
{
    memset(l->sums, 0, params * sizeof *l->sums);
    for (size_t b = 0; b < l->blocks; b++) {
        uint64_t first;
        size_t count = average_stretch(&l->onebit.average, b, &first), done = 0;
        for (size_t i = count ? find(l, params, first) : params; done < count; i++) {
            uint64_t left = l->first[i + 1] - (first + done);
            add(&l->sums[i], &l->partial[b + i]);
            done += left < count - done ? (size_t)left : count - done;
        }
    }
}

/* Where each rank has updated its parts: of the ranks in order. */
static zds_status sum_ranks(lamb *l, size_t params, const zds_comm_ops *comm, void *comm_self)
{
    tensor_sums *all = l->sums + params;
    zds_status status = average_gather(comm, comm_self, l->sums, all, params * sizeof *all);
    if (status)
        return status;
    memset(l->sums, 0, params * sizeof *l->sums);
    for (size_t r = 0; r < (size_t)l->onebit.world; r++)
        for (size_t i = 0; i < params; i++)
            add(&l->sums[i], &all[r * params + i]);
    return ZDS_OK;
}

/* f of the header comment. */
static double next_factor(const lamb_options *o, const tensor_sums *sums, double weight_decay,
                          double last)
{
    double factor = sums->largest;
    if (weight_decay > 0 && sums->decayed_squares > 0) {
        double ratio = sqrt(sums->update_squares / sums->decayed_squares);
        ratio = ratio < 1 ? ratio : 1;
        factor = factor * ratio + 1 - ratio;
    }
    double high = last * (1 + o->factor_threshold), low = last * (1 - o->factor_threshold);
    factor = factor > o->factor_max ? o->factor_max : factor;
    factor = factor < o->factor_min ? o->factor_min : factor;
    factor = factor > high ? high : factor;
    return factor < low ? low : factor;
}

typedef struct move_pass {
    const onebit *o;
    const zds_param_step *param;
    onebit_constants constants;
} move_pass;

static void move_block(void *arg, size_t i)
{
    const move_pass *m = arg;
    uint64_t at = (uint64_t)i * AVERAGE_BLOCK, left = m->param->part_count - at;
    onebit_update(m->o, m->o->move, m->param, &m->constants, m->param->part_first + at,
                  left < AVERAGE_BLOCK ? left : AVERAGE_BLOCK, NULL);
}

static void move_tensors(lamb *l, const zds_param_steps *params)
{
    const lamb_options *o = l->onebit.base.options;
    const zds_host *host = l->onebit.base.host;
    for (size_t i = 0; i < params->count; i++) {
        move_pass m = {.o = &l->onebit, .param = zds_param_step_at(params, i)};
        coefficients *c = coefficients_of(m.param);
        if (!m.param->has_grad || !m.param->param->numel)
            continue;
        fill_constants(o, m.param->hyper, &m.constants);
        c->last_factor = next_factor(o, &l->sums[i], m.param->hyper->weight_decay, c->last_factor);
        m.constants.rate = (float)(m.param->hyper->lr * c->frozen * c->last_factor);
        host->parallel_for(host,
                           (size_t)((m.param->part_count + AVERAGE_BLOCK - 1) / AVERAGE_BLOCK),
                           move_block, &m);
    }
}

static zds_status step_collective(void *self, const zds_param_steps *params,
                                  const zds_comm_ops *comm, void *comm_self,
                                  const zds_step_ctx *ctx)
{
    lamb *l = self;
    onebit *o = &l->onebit;
    const lamb_options *options = o->base.options;
    if (!params->count)
        return ZDS_OK;
    average_vector all = {.count = o->elements};
    if (o->world > 1) {
        all.worker = zds_param_step_at(params, 0)->states[WORKER];
        all.server = zds_param_step_at(params, 0)->states[SERVER];
    }
    collective c = {l, params, (float)ctx->grad_scale};
    average_work work = {.count = 1, .vectors = &all, .load = load, .store = store, .user = &c};
    zds_status status = ctx->step == options->freeze_step + 1 ? freeze(o, params) : ZDS_OK;
    if (status)
        return status;
    memset(l->partial, 0, (l->blocks + params->count) * sizeof *l->partial);
    status = average_run(&o->average, &work, comm, comm_self);
    if (status)
        return status;
    sum_blocks(l, params->count);
    if (o->sharded)
        status = sum_ranks(l, params->count, comm, comm_self);
    if (!status)
        move_tensors(l, params);
    return status;
}

static const zds_optim_ops ops = {ONEBIT_OPS(create, describe, destroy),
                                  .norms = elementwise_norms,
                                  .sums_ready = sums_ready,
                                  .reduction_mode = reduction_mode,
                                  .step_collective = step_collective,
                                  .prepare = prepare};

const zds_plugin onebit_lamb_plugin = {
    OPTIM_PLUGIN("OneBitLamb", options_table, lamb_options, ops,
                 "Lamb whose momentum travels in 1 bit an element once the mean square is frozen")};
