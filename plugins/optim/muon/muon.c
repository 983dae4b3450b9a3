/* Muon: options, which parameters it takes, and the order of its step. The iteration is in
 * newton_schulz.c, what is done to each element in muon_kernel.c.
 *
 * Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; options, defaults
 * and the choice of parameters are those of DeepSpeed 0.19: matrices whose name holds neither
 * "embed" nor "lm_head" get Muon, the rest Adam. The iteration runs in fp32, as the reference's
 * does where the device lacks fp16 and bf16. */
#include <stdatomic.h>
#include <string.h>
#include <strings.h>

#include "optim/adamw/adamw.h"
#include "optim/muon/muon.h"

typedef struct muon_options {
    double lr, muon_lr, adam_lr, betas[2], eps, momentum, weight_decay, max_grad_norm;
    int64_t ns_method;
    bool adam_w_mode, per_head_muon, torch_adam, fp32_optimizer_states;
} muon_options;

enum { GRAM = 0 };

#define RATE(field, from, text)                                                                    \
    {                                                                                              \
        .name = #field, .type = ZDS_OPTION_FLOAT, .flags = ZDS_OPTION_NULLABLE,                    \
        .offset = offsetof(muon_options, field), .default_value = "null", .min = 0,                \
        .max = INFINITY, .auto_from = from, .doc = text                                            \
    }

static const zds_option options_table[] = {
    RATE(lr, "learning_rate",
         "learning rate of both halves; null: 0.02 for Muon's, 0.0003 for Adam's"),
    RATE(muon_lr, NULL, "of the parameters that get Muon; null: lr"),
    RATE(adam_lr, NULL, "of those that get Adam; null: lr"),
    {.name = "momentum",
     .type = ZDS_OPTION_FLOAT,
     .flags = ZDS_OPTION_BELOW_MAX,
     .offset = offsetof(muon_options, momentum),
     .default_value = "0.95",
     .min = 0,
     .max = 1,
     .doc = "decay of Muon's running mean of the gradient"},
    {.name = "ns_method",
     .type = ZDS_OPTION_ENUM,
     .offset = offsetof(muon_options, ns_method),
     .default_value = "\"gram\"",
     .choices = "gram|standard",
     .doc = "form of the Newton-Schulz iteration; gram needs fewer products where a matrix is far "
            "from square"},
    OPTION_BETAS(muon_options, "[0.9, 0.95]",
                 "Adam's: decay of the running means of the gradient and of its square"),
    OPTION_EPS(muon_options, "1e-10", "Adam's: added to the denominator, outside the root"),
    OPTION_WEIGHT_DECAY(muon_options, "decoupled weight decay of both halves"),
    OPTION_FLAG(muon_options, adam_w_mode, "true",
                "Adam's: false adds the weight decay to the gradient (L2)"),
    OPTION_FLAG(muon_options, per_head_muon, "false",
                "one iteration an attention head; refused if true: an optimizer is not told how "
                "many heads a matrix has"),
    OPTION_NO_EFFECT(muon_options, torch_adam, "false",
                     "torch's Adam has the same formula as DeepSpeed's with these options"),
    OPTION_NO_EFFECT(muon_options, fp32_optimizer_states, "true",
                     "bf16.bf16_optimizer_states decides in which type the running means are kept"),
    OPTION_MAX_GRAD_NORM(muon_options),
};

/* One matrix of a step. */
typedef struct job {
    const zds_tile *tile;
    uint64_t first;  /* element of the tile */
    double lift;     /* of the update: sqrt(rows / columns) where that is above 1 */
    bool strange;    /* the parameter has a gradient that is not finite */
    uint32_t key;    /* of stochastic rounding */
    double *squares; /* [tasks over its elements] */
    muon_shape shape;
} job;

typedef struct muon {
    const zds_host *host;
    const muon_options *options;
    void *adam; /* elementwise_optim */
    zds_dtype state_dtype;
    bool stochastic;
    muon_fn look, blend, scale, apply;
    job *jobs;
    char *work; /* of the jobs in progress */
    size_t job_bytes, work_bytes;
} muon;

/* === which parameters, and what they need === */

static bool holds(const char *name, const char *word)
{
    size_t length = strlen(word);
    for (; *name; name++)
        if (strncasecmp(name, word, length) == 0)
            return true;
    return false;
}

static bool takes(const zds_param *param)
{
    return param->ndim >= 2 && !holds(param->name, "embed") && !holds(param->name, "lm_head");
}

/* The matrices of a parameter: the filters of a convolution are the rows of one; of other shapes
 * the last two extents make one, the others count them. */
static muon_shape shape_of(const muon *self, const zds_param *param, uint64_t *count)
{
    uint64_t rows = (uint64_t)param->shape[param->ndim - 2],
             cols = (uint64_t)param->shape[param->ndim - 1];
    if (param->ndim == 4)
        rows = (uint64_t)param->shape[0];
    if (param->ndim == 4 && rows)
        cols = param->numel / rows;
    *count = rows && cols ? param->numel / (rows * cols) : 0;
    return (muon_shape){.rows = rows, .cols = cols, .gram = self->options->ns_method == GRAM};
}

static double lift_of(const zds_param *param)
{
    double rows = (double)param->shape[param->ndim - 2],
           cols = (double)param->shape[param->ndim - 1];
    return rows > cols ? sqrt(rows / cols) : 1;
}

/* The group's own rate wins over the half's, that over the common one. */
static double rate_of(const zds_param *param, double group, double half, double preset)
{
    if (ZDS_HAS(param, group_sets) && param->group_sets & ZDS_SCHED_LR)
        return group;
    if (!isnan(half))
        return half;
    return isnan(group) ? preset : group;
}

static zds_status describe(void *instance, const zds_param *param, zds_param_needs *needs)
{
    const muon *self = instance;
    const muon_options *o = self->options;
    if (!takes(param)) {
        needs->hyper->lr = rate_of(param, needs->hyper->lr, o->adam_lr, 3e-4);
        return elementwise_describe(self->adam, param, needs);
    }
    uint64_t count;
    muon_shape shape = shape_of(self, param, &count);
    needs->hyper->lr = rate_of(param, needs->hyper->lr, o->muon_lr, 0.02);
    needs->hyper->beta1 = needs->hyper->beta2 = NAN; /* as in the reference: nothing to cycle */
    needs->leads = 1;
    needs->whole_tensor = 1;
    needs->cost = muon_cost(&shape) * (double)count;
    zds_add_state(needs, &(zds_state_spec){.name = "momentum_buffer",
                                           .kind = ZDS_STATE_ELEMENT,
                                           .dtype = self->state_dtype});
    return ZDS_OK;
}

/* === an instance === */

static void rest_constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                           void *out)
{
    const muon_options *o = optim->options;
    *(adam_constants *)out = adam_constants_of(tile->hyper, o->eps, step, o->adam_w_mode);
}

static void destroy(void *instance)
{
    muon *self = instance;
    const zds_host *host = self->host;
    if (self->adam)
        elementwise_destroy(self->adam);
    host->free(host, self->jobs);
    host->free(host, self->work);
    host->free(host, self);
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **instance)
{
    static const char *const states[] = {"exp_avg", "exp_avg_sq"};
    static const elementwise_fn adam[] = SIMD_TABLE(adam_run);
    static const muon_fn look[] = SIMD_TABLE(muon_look), blend[] = SIMD_TABLE(muon_blend),
                         scale[] = SIMD_TABLE(muon_scale), apply[] = SIMD_TABLE(muon_apply);
    const muon_options *o = options;
    if (o->per_head_muon)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "per_head_muon: an optimizer is not told how many attention heads a "
                          "matrix has; remove per_head_muon");
    int level;
    zds_status status = elementwise_no_max_grad_norm(host, o->max_grad_norm);
    if (!status)
        status = simd_level(host, &level);
    if (status)
        return status;
    muon *self = host->alloc(host, sizeof *self, 0);
    if (!self)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    *self = (muon){.host = host,
                   .options = o,
                   .state_dtype = env->state_dtype,
                   .stochastic = env->stochastic_rounding != 0,
                   .look = look[level],
                   .blend = blend[level],
                   .scale = scale[level],
                   .apply = apply[level]};
    elementwise_optim plan = {
        .options = o, .states = states, .state_count = 2, .constants = rest_constants};
    status = elementwise_create(host, env, &plan, adam, &self->adam);
    if (status) {
        self->adam = NULL;
        destroy(self);
        return status;
    }
    *instance = self;
    return ZDS_OK;
}

/* === one matrix === */

/* One pass over the elements of a job, in tasks. */
typedef struct pass {
    const muon *self;
    const job *job;
    float *x;
    muon_fn run;
    float grad_scale, factor, keep;
    _Atomic int strange; /* a gradient is not finite */
} pass;

static void *at(const void *base, uint64_t element, zds_dtype dtype)
{
    return base ? (char *)(uintptr_t)base + element * zds_dtype_size(dtype) : NULL;
}

static void run_task(void *arg, size_t i)
{
    pass *p = arg;
    const job *j = p->job;
    const zds_tile *t = j->tile;
    uint64_t inside = (uint64_t)i * MUON_RUN, left = j->shape.rows * j->shape.cols - inside,
             first = j->first + inside;
    muon_run run = {.count = left < MUON_RUN ? left : MUON_RUN,
                    .master = at(t->master, first, t->master_dtype),
                    .output = at(t->output, first, t->output_dtype),
                    .momentum = at(t->states[0], first, p->self->state_dtype),
                    .grad = at(t->grad, first, t->grad_dtype),
                    .x = at(p->x, inside, ZDS_F32),
                    .master_dtype = t->master_dtype,
                    .output_dtype = t->output_dtype,
                    .momentum_dtype = p->self->state_dtype,
                    .grad_dtype = t->grad_dtype,
                    .grad_scale = p->grad_scale,
                    .beta = (float)t->hyper->momentum,
                    .one_minus_beta = (float)(1 - t->hyper->momentum),
                    .stochastic = p->self->stochastic,
                    .key = j->key,
                    .first = (uint32_t)first,
                    .hold = j->strange,
                    .factor = p->factor,
                    .keep = p->keep,
                    .finite = true};
    p->run(&run);
    if (j->squares)
        j->squares[i] = run.squares;
    if (!run.finite)
        p->strange = 1;
}

static uint64_t runs_of(const job *j)
{
    return (j->shape.rows * j->shape.cols + MUON_RUN - 1) / MUON_RUN;
}

static void pass_over(const zds_host *host, pass *p, muon_fn run)
{
    p->run = run;
    muon_spread(host, runs_of(p->job), run_task, p);
}

static bool is_strange(const muon *self, const zds_tile *tile)
{
    job all = {.tile = tile, .shape = {.rows = 1, .cols = tile->count}};
    pass p = {.self = self, .job = &all};
    pass_over(self->host, &p, self->look);
    return p.strange;
}

/* Room for the partial sums of a job, then its matrices. */
static size_t sums_bytes(const job *j)
{
    return (runs_of(j) * sizeof(double) + 63) / 64 * 64;
}

static size_t work_bytes(const job *j)
{
    return sums_bytes(j) + (muon_floats(&j->shape) * sizeof(float) + 63) / 64 * 64;
}

/* From gradient to weight. `host`: over the threads; NULL: here. As in the reference, a gradient
 * that is not finite does not reach the momentum, and goes to the weight as it is. */
static bool update(const muon *self, const zds_host *host, job *j, char *work, float grad_scale)
{
    const zds_hyper *h = j->tile->hyper;
    float *x = (float *)(void *)(work + sums_bytes(j));
    j->squares = (double *)(void *)work;
    pass p = {.self = self, .job = j, .x = x, .grad_scale = grad_scale};
    pass_over(host, &p, self->blend);
    p.factor = (float)h->lr;
    if (!j->strange) {
        double squares = 0;
        for (uint64_t i = 0; i < runs_of(j); i++)
            squares += j->squares[i];
        p.factor = (float)(1 / (sqrt(squares) + 1e-7));
        pass_over(host, &p, self->scale);
        if (!muon_orthogonal(host, &j->shape, x))
            return false;
        p.factor = (float)(h->lr * j->lift);
    }
    p.keep = (float)(1 - h->lr * h->weight_decay);
    pass_over(host, &p, self->apply);
    return true;
}

/* === a step === */

/* Small matrices are updated side by side, a thread each; over a large one all threads go together.
 */
static bool is_small(const job *j)
{
    return 2 * muon_cost(&j->shape) < (double)(1 << 28);
}

typedef struct side_by_side {
    const muon *self;
    size_t job_count, work_bytes;
    float grad_scale;
    atomic_size_t next;
    _Atomic int failed;
} side_by_side;

static void run_lane(void *arg, size_t lane)
{
    side_by_side *s = arg;
    for (size_t i; (i = atomic_fetch_add(&s->next, 1)) < s->job_count;) {
        job *j = &s->self->jobs[i];
        if (is_small(j) &&
            !update(s->self, NULL, j, s->self->work + lane * s->work_bytes, s->grad_scale))
            s->failed = 1;
    }
}

static bool reserve(const zds_host *host, void **room, size_t *have, size_t want)
{
    if (want <= *have)
        return true;
    host->free(host, *room);
    *room = host->alloc(host, want, 0);
    *have = *room ? want : 0;
    return *room;
}

/* What the matrices of one call need. */
typedef struct needed {
    uint64_t matrices, smalls; /* smalls: those of them that are small */
    size_t large, small;       /* bytes for the largest of each */
} needed;

static void need(needed *n, const muon *self, const zds_param *param)
{
    uint64_t matrices;
    const job one = {.shape = shape_of(self, param, &matrices)};
    size_t bytes = work_bytes(&one), *most = is_small(&one) ? &n->small : &n->large;
    *most = bytes > *most ? bytes : *most;
    n->matrices += matrices;
    n->smalls += is_small(&one) ? matrices : 0;
}

/* Small matrices that are updated at once. */
static size_t lanes_of(const muon *self, const needed *n)
{
    size_t threads = (size_t)self->host->threads;
    return threads < n->smalls ? threads : (size_t)n->smalls;
}

static zds_status take_room(muon *self, const needed *n)
{
    const zds_host *host = self->host;
    size_t lanes = lanes_of(self, n) * n->small, bytes = lanes > n->large ? lanes : n->large;
    void *jobs = self->jobs, *work = self->work;
    bool enough = reserve(host, &jobs, &self->job_bytes, n->matrices * sizeof(job)) &&
                  reserve(host, &work, &self->work_bytes, bytes);
    self->jobs = jobs;
    self->work = work;
    return enough ? ZDS_OK
                  : host->fail(host, ZDS_ERR_MEMORY, "no memory for %zu bytes of products", bytes);
}

static zds_status prepare(void *instance, const zds_param_steps *params)
{
    muon *self = instance;
    needed n = {0};
    for (size_t i = 0; i < params->count; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        if (p->part_count && takes(p->param))
            need(&n, self, p->param);
    }
    return take_room(self, &n);
}

/* The matrices of all tiles that get Muon; the others are updated on the way. */
static zds_status collect(muon *self, const zds_tiles *tiles, const zds_step_ctx *ctx,
                          size_t *job_count)
{
    uint64_t matrices;
    for (size_t i = 0; i < tiles->count; i++) {
        const zds_tile *t = zds_tile_at(tiles, i);
        if (!takes(t->param)) {
            zds_tiles one = {
                .struct_size = sizeof one, .count = 1, .stride = sizeof *t, .first = t};
            zds_status status = elementwise_step(self->adam, &one, ctx);
            if (status)
                return status;
            continue;
        }
        muon_shape shape = shape_of(self, t->param, &matrices);
        bool strange = is_strange(self, t);
        for (uint64_t k = 0; k < matrices; k++)
            self->jobs[(*job_count)++] = (job){.tile = t,
                                               .first = k * shape.rows * shape.cols,
                                               .lift = lift_of(t->param),
                                               .strange = strange,
                                               .key = elementwise_key(ctx, t->param),
                                               .shape = shape};
    }
    return ZDS_OK;
}

static zds_status step(void *instance, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    muon *self = instance;
    const zds_host *host = self->host;
    float grad_scale = (float)ctx->grad_scale;
    size_t count = 0;
    needed n = {0};
    for (size_t i = 0; i < tiles->count; i++)
        if (takes(zds_tile_at(tiles, i)->param))
            need(&n, self, zds_tile_at(tiles, i)->param);
    if (!n.matrices) /* called on several threads at once, which the room below is not for */
        return elementwise_step(self->adam, tiles, ctx);
    zds_status status = take_room(self, &n);
    if (!status)
        status = collect(self, tiles, ctx, &count);
    if (status || !count)
        return status;
    size_t lanes = lanes_of(self, &n);
    side_by_side s = {
        .self = self, .job_count = count, .work_bytes = n.small, .grad_scale = grad_scale};
    for (size_t i = 0; i < count; i++)
        if (!is_small(&self->jobs[i]) &&
            !update(self, host, &self->jobs[i], self->work, grad_scale))
            s.failed = 1;
    if (lanes)
        host->parallel_for(host, lanes, run_lane, &s);
    return s.failed ? host->fail(host, ZDS_ERR_PLUGIN, "a matrix product of oneDNN failed")
                    : ZDS_OK;
}

static const zds_optim_ops ops = {.struct_size = sizeof ops,
                                  .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                  .grad_dtypes = ELEMENTWISE_DTYPES,
                                  .master_dtypes = ELEMENTWISE_DTYPES,
                                  .output_dtypes = ELEMENTWISE_DTYPES,
                                  .create = create,
                                  .destroy = destroy,
                                  .describe = describe,
                                  .step = step,
                                  .prepare = prepare};

static const zds_plugin plugin = {
    OPTIM_PLUGIN("Muon", options_table, muon_options, ops,
                 "orthogonalised momentum for matrices, Adam for the rest")};

ZDS_PLUGINS(&plugin);
