/* Adafactor: options, states, and the passes of a step. The formula is in adafactor_kernel.h;
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
    if (env->stochastic_rounding && env->master_dtype != ZDS_F32)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "Adafactor rounds its weights to nearest; remove "
                          "\"stochastic_rounding\"");
    adafactor *a = host->alloc(host, sizeof *a, 0);
    if (!a)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    *a = (adafactor){.host = host,
                     .options = o,
                     .kernels = kernels[level],
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
    needs->states[0] = (zds_state_spec){
        .name = "step", .kind = ZDS_STATE_TENSOR, .dtype = ZDS_I64, .bytes = sizeof(int64_t)};
    needs->state_count = 2;
    if (param->ndim < 2) {
        needs->states[1] =
            (zds_state_spec){.name = "variance", .kind = ZDS_STATE_ELEMENT, .dtype = ZDS_F32};
        return ZDS_OK;
    }
    needs->states[1] = (zds_state_spec){.name = "row_var",
                                        .kind = ZDS_STATE_TENSOR,
                                        .dtype = ZDS_F32,
                                        .bytes = matrices * rows * sizeof(float)};
    needs->states[2] = (zds_state_spec){.name = "col_var",
                                        .kind = ZDS_STATE_TENSOR,
                                        .dtype = ZDS_F32,
                                        .bytes = matrices * columns * sizeof(float)};
    needs->state_count = 3;
    return ZDS_OK;
}

/* One pass over a matrix. */
typedef struct pass {
    const adafactor_kernels *kernels;
    const adafactor_matrix *matrix;
    double sums[PARTS];
} pass;

/* Part i of `count` things. */
static size_t begin_of(size_t count, size_t i)
{
    return count / PARTS * i + (i < count % PARTS ? i : count % PARTS);
}

static void rows_part(void *arg, size_t i)
{
    pass *p = arg;
    size_t first = begin_of(p->matrix->rows, i);
    p->sums[i] = p->kernels->rows(p->matrix, first, begin_of(p->matrix->rows, i + 1) - first);
}

static void columns_part(void *arg, size_t i)
{
    pass *p = arg;
    size_t first = begin_of(p->matrix->columns, i);
    p->kernels->columns(p->matrix, first, begin_of(p->matrix->columns, i + 1) - first);
}

static void norm_part(void *arg, size_t i)
{
    pass *p = arg;
    size_t first = begin_of(p->matrix->rows, i);
    p->sums[i] = p->kernels->norm(p->matrix, first, begin_of(p->matrix->rows, i + 1) - first);
}

static void apply_part(void *arg, size_t i)
{
    pass *p = arg;
    size_t first = begin_of(p->matrix->rows, i);
    p->kernels->apply(p->matrix, first, begin_of(p->matrix->rows, i + 1) - first);
}

/* Returns the sum of what the parts left. */
static double run(const adafactor *a, const adafactor_matrix *m, void (*part)(void *, size_t))
{
    pass p = {.kernels = a->kernels, .matrix = m};
    double sum = 0;
    a->host->parallel_for(a->host, PARTS, part, &p);
    for (size_t i = 0; i < PARTS; i++)
        sum += p.sums[i];
    return sum;
}

/* The k-th matrix of the parameter. */
static void select_matrix(const adafactor *a, adafactor_matrix *m, size_t k)
{
    void *const *states = m->tile->states;
    bool factored = m->tile->param->ndim >= 2;
    m->first = k * m->rows * m->columns;
    m->row = factored ? (float *)states[1] + k * m->rows : NULL;
    m->column = (float *)states[factored ? 2 : 1] + k * m->columns;
    double mean = 0;
    for (size_t i = 0; factored && i < m->rows; i++)
        mean += (double)m->row[i] / (double)m->rows;
    m->inverse_row_mean = (float)(1 / fmax(mean, a->eps1));
}

static void step_tile(const adafactor *a, const zds_tile *tile, const zds_step_ctx *ctx)
{
    const adafactor_options *o = a->options;
    size_t matrices, rows, columns;
    shape_of(tile->param, &matrices, &rows, &columns);
    int64_t step = ++*(int64_t *)tile->states[0];
    double lr = tile->hyper->lr, weights = 0, update = 0;
    adafactor_matrix m = {.rows = rows,
                          .columns = columns,
                          .tile = tile,
                          .grad_scale = (float)(o->maximize ? -ctx->grad_scale : ctx->grad_scale),
                          .fresh = (float)pow((double)step, o->beta2_decay),
                          .least = (float)(a->eps1 * a->eps1),
                          .keep = (float)(1 - lr * tile->hyper->weight_decay)};
    for (size_t k = 0; k < matrices; k++) {
        select_matrix(a, &m, k);
        weights += run(a, &m, rows_part);
        run(a, &m, columns_part);
    }
    for (size_t k = 0; k < matrices; k++) {
        select_matrix(a, &m, k);
        update += run(a, &m, norm_part);
    }
    double numel = (double)tile->param->numel;
    double alpha = fmax(o->eps[1], sqrt(weights / numel)) * fmin(lr, 1 / sqrt((double)step));
    m.rate = (float)(alpha / fmax(1, sqrt(update / numel) / o->d));
    for (size_t k = 0; k < matrices; k++) {
        select_matrix(a, &m, k);
        run(a, &m, apply_part);
    }
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
