/* Adafactor: options, states, and the passes of a step. The formula is in adafactor_kernel.c;
 * options and defaults are those of torch.optim.Adafactor. Means of rows and columns, and norms,
 * need whole tensors: at stage >= 1 each has one owner. */
#include "optim/adafactor/adafactor.h"

enum { PARTS = 64 }; /* of a pass, whatever the number of threads: sums are added in their order */

typedef struct adafactor_options {
    double lr, beta2_decay, eps[2], d, weight_decay;
    bool maximize;
} adafactor_options;

static const zds_option options_table[] = {
    OPTION_LR(adafactor_options, "0.01"),
    {.name = "beta2_decay",
     .type = ZDS_OPTION_FLOAT,
     .offset = offsetof(adafactor_options, beta2_decay),
     .default_value = "-0.8",
     .min = -INFINITY,
     .max = 0,
     .doc = "squares enter their running means with weight step^beta2_decay"},
    {.name = "eps",
     .type = ZDS_OPTION_FLOATS,
     .flags = ZDS_OPTION_NULLABLE,
     .offset = offsetof(adafactor_options, eps),
     .count = 2,
     .default_value = "[null, 1e-3]",
     .min = 0,
     .max = INFINITY,
     .doc = "least root mean square of a gradient (null: the precision of the weights' type), and "
            "of the weights"},
    OPTION_NUMBER(adafactor_options, d, "1", 1, "largest root mean square of an update"),
    OPTION_WEIGHT_DECAY(adafactor_options, "decoupled weight decay"),
    OPTION_MAXIMIZE(adafactor_options),
};

typedef struct adafactor {
    const zds_host *host;
    const adafactor_options *options;
    const adafactor_kernels *kernels;
    double eps1;
    bool stochastic;
} adafactor;

static double precision(zds_dtype dtype)
{
    return dtype == ZDS_BF16 ? 0x1p-7 : dtype == ZDS_F16 ? 0x1p-10 : 0x1p-23;
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const adafactor_kernels *const kernels[] = {
        &adafactor_scalar,
#if defined(__x86_64__)
        &adafactor_avx2,
        &adafactor_avx512,
#endif
    };
    int level = 0;
    const adafactor_options *o = options;
    zds_status status = elementwise_check(host, env);
    if (!status)
        status = simd_level(host, &level);
    if (status)
        return status;
    if (isnan(o->eps[1]))
        return host->fail(host, ZDS_ERR_CONFIG, "eps[1] must be a number, as 1e-3");
    adafactor *a = host->alloc(host, sizeof *a, 0);
    if (!a)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    *a = (adafactor){.host = host,
                     .options = o,
                     .kernels = kernels[level],
                     .stochastic = env->stochastic_rounding != 0,
                     .eps1 = isnan(o->eps[0]) ? precision(env->master_dtype) : o->eps[0]};
    *self = a;
    return ZDS_OK;
}

static void destroy(void *self)
{
    adafactor *a = self;
    a->host->free(a->host, a);
}

/* The last two dimensions are factored; those before them count matrices. */
static void shape_of(const zds_param *p, size_t *matrices, size_t *rows, size_t *columns)
{
    *matrices = *rows = 1;
    *columns = (size_t)p->numel;
    if (p->ndim < 2 || p->numel == 0)
        return;
    *rows = (size_t)p->shape[p->ndim - 2];
    *columns = (size_t)p->shape[p->ndim - 1];
    *matrices = (size_t)p->numel / *rows / *columns;
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    size_t matrices, rows, columns;
    (void)self;
    shape_of(param, &matrices, &rows, &columns);
    needs->whole_tensor = 1;
    zds_add_state(needs, &(zds_state_spec){.name = "step",
                                           .kind = ZDS_STATE_TENSOR,
                                           .dtype = ZDS_I64,
                                           .bytes = sizeof(int64_t)});
    if (param->ndim < 2) {
        zds_add_state(needs, &(zds_state_spec){
                                 .name = "variance", .kind = ZDS_STATE_ELEMENT, .dtype = ZDS_F32});
        return ZDS_OK;
    }
    zds_add_state(needs, &(zds_state_spec){.name = "row_var",
                                           .kind = ZDS_STATE_TENSOR,
                                           .dtype = ZDS_F32,
                                           .bytes = matrices * rows * sizeof(float)});
    zds_add_state(needs, &(zds_state_spec){.name = "col_var",
                                           .kind = ZDS_STATE_TENSOR,
                                           .dtype = ZDS_F32,
                                           .bytes = matrices * columns * sizeof(float)});
    return ZDS_OK;
}

typedef double (*share_fn)(const adafactor_kernels *k, const adafactor_matrix *m, size_t share,
                           size_t shares);

/* One pass over the matrices of a parameter: each is cut into `shares` of its rows, or columns, as
 * many as it takes to fill PARTS tasks; where there are more matrices than that, a task has some.
 */
typedef struct pass {
    const adafactor *self;
    const adafactor_matrix *first;
    size_t matrices, shares;
    share_fn run;
    bool scales;
    float means[PARTS]; /* inverse_row_mean of each matrix, where matrices are cut into shares */
    double sums[PARTS];
} pass;

/* Where share i of `count` things begins. */
static size_t begin_of(size_t count, size_t shares, size_t i)
{
    return count / shares * i + (i < count % shares ? i : count % shares);
}

static double rows_share(const adafactor_kernels *k, const adafactor_matrix *m, size_t share,
                         size_t shares)
{
    size_t first = begin_of(m->rows, shares, share);
    return k->rows(m, first, begin_of(m->rows, shares, share + 1) - first);
}

static double columns_share(const adafactor_kernels *k, const adafactor_matrix *m, size_t share,
                            size_t shares)
{
    size_t first = begin_of(m->columns, shares, share);
    k->columns(m, first, begin_of(m->columns, shares, share + 1) - first);
    return 0;
}

static double norm_share(const adafactor_kernels *k, const adafactor_matrix *m, size_t share,
                         size_t shares)
{
    size_t first = begin_of(m->rows, shares, share);
    return k->norm(m, first, begin_of(m->rows, shares, share + 1) - first);
}

static double apply_share(const adafactor_kernels *k, const adafactor_matrix *m, size_t share,
                          size_t shares)
{
    size_t first = begin_of(m->rows, shares, share);
    k->apply(m, first, begin_of(m->rows, shares, share + 1) - first);
    return 0;
}

static void select_matrix(adafactor_matrix *m, size_t k)
{
    void *const *states = m->tile->states;
    bool factored = m->tile->param->ndim >= 2;
    m->first = k * m->rows * m->columns;
    m->row = factored ? (float *)states[1] + k * m->rows : NULL;
    m->column = (float *)states[factored ? 2 : 1] + k * m->columns;
}

static float inverse_row_mean(const adafactor *a, const adafactor_matrix *m)
{
    double mean = 0;
    for (size_t i = 0; m->row && i < m->rows; i++)
        mean += (double)m->row[i] / (double)m->rows;
    return (float)(1 / fmax(mean, a->eps1));
}

static void run_part(void *arg, size_t part)
{
    pass *p = arg;
    size_t pieces = p->matrices * p->shares, last = begin_of(pieces, PARTS, part + 1);
    adafactor_matrix m = *p->first;
    double sum = 0;
    for (size_t i = begin_of(pieces, PARTS, part); i < last; i++) {
        select_matrix(&m, i / p->shares);
        if (p->scales)
            m.inverse_row_mean =
                p->shares == 1 ? inverse_row_mean(p->self, &m) : p->means[i / p->shares];
        sum += p->run(p->self->kernels, &m, i % p->shares, p->shares);
    }
    p->sums[part] = sum;
}

/* Returns the sum of what the parts left. `scales`: the pass needs the means of the rows. */
static double run(const adafactor *a, const adafactor_matrix *matrix, size_t matrices,
                  share_fn share, bool scales)
{
    adafactor_matrix m = *matrix;
    double sum = 0;
    pass p = {.self = a,
              .first = matrix,
              .matrices = matrices,
              .shares = (PARTS + matrices - 1) / matrices,
              .run = share,
              .scales = scales};
    for (size_t k = 0; scales && p.shares > 1 && k < matrices; k++) {
        select_matrix(&m, k);
        p.means[k] = inverse_row_mean(a, &m);
    }
    a->host->parallel_for(a->host, PARTS, run_part, &p);
    for (size_t i = 0; i < PARTS; i++)
        sum += p.sums[i];
    return sum;
}

static void step_tile(const adafactor *a, const zds_tile *tile, const zds_step_ctx *ctx)
{
    const adafactor_options *o = a->options;
    size_t matrices, rows, columns;
    shape_of(tile->param, &matrices, &rows, &columns);
    int64_t step = ++*(int64_t *)tile->states[0];
    double lr = tile->hyper->lr;
    adafactor_matrix m = {.rows = rows,
                          .columns = columns,
                          .tile = tile,
                          .stochastic = a->stochastic,
                          .key = elementwise_key(ctx, tile->param),
                          .grad_scale = (float)(o->maximize ? -ctx->grad_scale : ctx->grad_scale),
                          .fresh = (float)pow((double)step, o->beta2_decay),
                          .least = (float)(a->eps1 * a->eps1),
                          .keep = (float)(1 - lr * tile->hyper->weight_decay)};
    double weights = run(a, &m, matrices, rows_share, false);
    run(a, &m, matrices, columns_share, false);
    double update = run(a, &m, matrices, norm_share, true), numel = (double)tile->param->numel;
    double alpha = fmax(o->eps[1], sqrt(weights / numel)) * fmin(lr, 1 / sqrt((double)step));
    m.rate = (float)(alpha / fmax(1, sqrt(update / numel) / o->d));
    run(a, &m, matrices, apply_share, true);
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    for (size_t i = 0; i < tiles->count; i++)
        step_tile(self, zds_tile_at(tiles, i), ctx);
    return ZDS_OK;
}

static const zds_optim_ops ops = {.struct_size = sizeof(zds_optim_ops),
                                  .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                  .grad_dtypes = ELEMENTWISE_DTYPES,
                                  .master_dtypes = ELEMENTWISE_DTYPES,
                                  .output_dtypes = ELEMENTWISE_DTYPES,
                                  .create = create,
                                  .destroy = destroy,
                                  .describe = describe,
                                  .step = step};

static const zds_plugin plugin = {
    OPTIM_PLUGIN("Adafactor", options_table, adafactor_options, ops,
                 "mean squares of rows and columns alone, and rates relative to the weights")};

ZDS_PLUGINS(&plugin);
