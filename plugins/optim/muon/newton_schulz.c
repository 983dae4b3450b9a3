/* The orthogonalisation of Muon: five steps of a quintic Newton-Schulz iteration on a matrix whose
 * singular values are at most 1, which brings those that are not tiny to between about 0.7 and 1.2.
 *
 * Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with its
 * coefficients: A = X X^T, X <- a X + (b A + c A A) X. The Gram form ("Gram Newton-Schulz", Dao et
 * al. 2026) iterates on the small R = X X^T instead, and multiplies X at the third step and at the
 * end. In exact arithmetic both are the same. Where X has more rows than columns X^T X takes the
 * place of X X^T, and factors stand on the right.
 *
 * All products between small matrices are symmetric, being polynomials in R: half of each is
 * computed, and mirrored. Rows lie apart by no multiple of 1 KiB: blocks of matrices whose rows do
 * meet in the same few sets of the nearest cache, which makes products half as fast. */
#include <dnnl.h>
#include <stdatomic.h>
#include <string.h>

#include "optim/muon/muon.h"

enum { STEPS = 5, RESTART = 2 };
static const float a = 3.4445f, b = -4.7750f, c = 2.0315f;

/* libgomp's or libomp's, whichever oneDNN was built with; absent where it is sequential. The
 * calling thread may be the program's own, whose setting must come back. */
extern void omp_set_num_threads(int) __attribute__((weak));
extern int omp_get_max_threads(void) __attribute__((weak));

void muon_spread(const zds_host *host, size_t n, void (*body)(void *arg, size_t i), void *arg)
{
    if (host)
        host->parallel_for(host, n, body, arg);
    else
        for (size_t i = 0; i < n; i++)
            body(arg, i);
}

/* to[rows][cols] = beta * add + alpha * op(x) op(y), in blocks. */
typedef struct product {
    uint64_t rows, cols, depth;
    const float *x, *y;
    uint64_t x_stride, y_stride, to_stride; /* of a row as it is stored */
    bool x_transposed, y_transposed;
    float *to;
    const float *add; /* laid out as `to`; NULL: nothing */
    float alpha, beta;
    bool symmetric;
    uint64_t block_rows, block_cols, across; /* blocks in a row of blocks */
    _Atomic int failed;
} product;

/* to[j][i] = to[i][j] for a block; in squares that stay in the nearest cache. */
static void mirror(const product *p, uint64_t row, uint64_t rows, uint64_t col, uint64_t cols)
{
    enum { SQUARE = 16 };
    for (uint64_t i0 = row; i0 < row + rows; i0 += SQUARE)
        for (uint64_t j0 = col; j0 < col + cols; j0 += SQUARE)
            for (uint64_t j = j0; j < j0 + SQUARE && j < col + cols; j++)
                for (uint64_t i = i0; i < i0 + SQUARE && i < row + rows; i++)
                    if (i > j)
                        p->to[j * p->to_stride + i] = p->to[i * p->to_stride + j];
}

static void multiply_block(void *arg, size_t index)
{
    product *p = arg;
    uint64_t i = index / p->across, j = index % p->across;
    if (p->symmetric) { /* the rows of blocks from the longest, each up to the diagonal */
        uint64_t left = index;
        for (i = p->across - 1; left > i; i--)
            left -= i + 1;
        j = left;
    }
    uint64_t row = i * p->block_rows, col = j * p->block_cols;
    uint64_t rows = p->rows - row < p->block_rows ? p->rows - row : p->block_rows;
    uint64_t cols = p->cols - col < p->block_cols ? p->cols - col : p->block_cols;
    float *to = p->to + row * p->to_stride + col;
    for (uint64_t k = 0; p->add && k < rows; k++)
        memcpy(to + k * p->to_stride, p->add + (row + k) * p->to_stride + col, cols * sizeof *to);
    int before = omp_get_max_threads && omp_set_num_threads ? omp_get_max_threads() : 0;
    if (before > 1)
        omp_set_num_threads(1);
    dnnl_status_t status =
        dnnl_sgemm(p->x_transposed ? 'T' : 'N', p->y_transposed ? 'T' : 'N', (dnnl_dim_t)rows,
                   (dnnl_dim_t)cols, (dnnl_dim_t)p->depth, p->alpha,
                   p->x + (p->x_transposed ? row : row * p->x_stride), (dnnl_dim_t)p->x_stride,
                   p->y + (p->y_transposed ? col * p->y_stride : col), (dnnl_dim_t)p->y_stride,
                   p->add ? p->beta : 0, to, (dnnl_dim_t)p->to_stride);
    if (before > 1)
        omp_set_num_threads(before);
    if (status != dnnl_success)
        p->failed = 1;
    if (p->symmetric)
        mirror(p, row, rows, col, cols);
}

static uint64_t ceil_div(uint64_t n, uint64_t by)
{
    return (n + by - 1) / by;
}

static bool multiply(const zds_host *host, product *p)
{
    uint64_t block = p->rows <= 256 ? 64 : p->rows < 2048 ? 128 : 256;
    p->block_rows = block;
    p->block_cols = p->symmetric ? block : 4 * block;
    p->across = ceil_div(p->cols, p->block_cols);
    uint64_t blocks = p->symmetric ? p->across * (p->across + 1) / 2
                                   : p->across * ceil_div(p->rows, p->block_rows);
    muon_spread(host, blocks, multiply_block, p);
    return !p->failed;
}

/* === the matrices of one iteration === */

typedef struct iteration {
    const zds_host *host;
    uint64_t n, m;               /* the shorter side and the longer */
    uint64_t x_stride, n_stride; /* of x, and of matrices of n x n */
    bool tall;                   /* x is [m][n] */
    float *x, *spare;
    bool failed;
} iteration;

/* r = X X^T, or X^T X. */
static void gram(iteration *it, float *r)
{
    product p = {.rows = it->n,
                 .cols = it->n,
                 .depth = it->m,
                 .x = it->x,
                 .y = it->x,
                 .x_transposed = it->tall,
                 .y_transposed = !it->tall,
                 .x_stride = it->x_stride,
                 .y_stride = it->x_stride,
                 .to_stride = it->n_stride,
                 .to = r,
                 .alpha = 1,
                 .symmetric = true};
    it->failed |= !multiply(it->host, &p);
}

/* to = beta * add + alpha * x y for symmetric matrices that commute. */
static void combine(iteration *it, float *to, float beta, const float *add, float alpha,
                    const float *x, const float *y)
{
    product p = {.rows = it->n,
                 .cols = it->n,
                 .depth = it->n,
                 .x = x,
                 .y = y,
                 .x_stride = it->n_stride,
                 .y_stride = it->n_stride,
                 .to_stride = it->n_stride,
                 .to = to,
                 .add = add,
                 .alpha = alpha,
                 .beta = beta,
                 .symmetric = true};
    it->failed |= !multiply(it->host, &p);
}

/* X <- q X, or X q. */
static void take(iteration *it, const float *q)
{
    product p = {.rows = it->tall ? it->m : it->n,
                 .cols = it->tall ? it->n : it->m,
                 .depth = it->n,
                 .x = it->tall ? it->x : q,
                 .y = it->tall ? q : it->x,
                 .x_stride = it->tall ? it->x_stride : it->n_stride,
                 .y_stride = it->tall ? it->n_stride : it->x_stride,
                 .to_stride = it->x_stride,
                 .to = it->spare,
                 .alpha = 1};
    it->failed |= !multiply(it->host, &p);
    float *other = it->x;
    it->x = it->spare;
    it->spare = other;
}

static void add_to_diagonal(const iteration *it, float *q)
{
    for (uint64_t i = 0; i < it->n; i++)
        q[i * it->n_stride + i] += a;
}

static void run_standard(iteration *it, float *square)
{
    float *r = square, *z = r + it->n * it->n_stride;
    for (int i = 0; i < STEPS; i++) {
        gram(it, r);
        combine(it, z, b, r, c, r, r);
        add_to_diagonal(it, z);
        take(it, z);
    }
}

static void run_gram(iteration *it, float *square)
{
    uint64_t size = it->n * it->n_stride;
    float *r = square, *z = r + size, *t = z + size, *q = t + size, *other = q + size;
    bool fresh = true; /* the product of the factors so far is 1 */
    gram(it, r);
    for (int i = 0; i < STEPS; i++) {
        if (i == RESTART) {
            take(it, q);
            gram(it, r);
            fresh = true;
        }
        combine(it, z, b, r, c, r, r);
        if (fresh) {
            memcpy(q, z, size * sizeof *q);
            add_to_diagonal(it, q);
        } else {
            combine(it, other, a, q, 1, z, q);
            float *swap = q;
            q = other;
            other = swap;
        }
        fresh = false;
        if (i + 1 < STEPS && i + 1 != RESTART) { /* R <- (a + Z) R (a + Z) */
            combine(it, t, a, r, 1, z, r);
            combine(it, r, a, t, 1, z, t);
        }
    }
    take(it, q);
}

static uint64_t shorter(const muon_shape *s)
{
    return s->rows < s->cols ? s->rows : s->cols;
}

/* As in the reference, a square matrix gains nothing by the Gram form. */
static bool by_gram(const muon_shape *s)
{
    return s->gram && s->rows != s->cols;
}

double muon_cost(const muon_shape *s)
{
    double n = (double)shorter(s), m = (double)s->rows * (double)s->cols / (n > 0 ? n : 1);
    return by_gram(s) ? 14 * n * n * n + 6 * n * n * m : 5 * n * n * n + 15 * n * n * m;
}

static uint64_t stride_of(uint64_t cols)
{
    uint64_t stride = (cols + 15) / 16 * 16;
    return stride % 256 ? stride : stride + 16;
}

static uint64_t round_up(uint64_t floats)
{
    return (floats + 15) / 16 * 16;
}

size_t muon_floats(const muon_shape *s)
{
    uint64_t n = shorter(s);
    return (size_t)(round_up(s->rows * s->cols) + 2 * s->rows * stride_of(s->cols) +
                    (by_gram(s) ? 5 : 2) * n * stride_of(n));
}

/* Rows of x[rows][cols] to rows that are `stride` apart, or back. */
typedef struct copy {
    uint64_t cols, stride;
    float *dense, *apart;
    bool back;
} copy;

static void copy_row(void *arg, size_t row)
{
    const copy *k = arg;
    float *dense = k->dense + row * k->cols, *apart = k->apart + row * k->stride;
    memcpy(k->back ? dense : apart, k->back ? apart : dense, k->cols * sizeof *dense);
}

bool muon_orthogonal(const zds_host *host, const muon_shape *s, float *work)
{
    uint64_t n = shorter(s), stride = stride_of(s->cols);
    float *x = work + round_up(s->rows * s->cols), *spare = x + s->rows * stride;
    iteration it = {.host = host,
                    .n = n,
                    .m = s->rows < s->cols ? s->cols : s->rows,
                    .x_stride = stride,
                    .n_stride = stride_of(n),
                    .tall = s->rows > s->cols,
                    .x = x,
                    .spare = spare};
    copy rows = {.cols = s->cols, .stride = stride, .dense = work, .apart = x};
    muon_spread(host, s->rows, copy_row, &rows);
    if (by_gram(s))
        run_gram(&it, spare + s->rows * stride);
    else
        run_standard(&it, spare + s->rows * stride);
    rows.apart = it.x;
    rows.back = true;
    muon_spread(host, s->rows, copy_row, &rows);
    return !it.failed;
}
