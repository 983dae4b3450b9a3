/* Adafactor: Shazeer and Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory
 * Cost", algorithms 4 and 5, as torch.optim.Adafactor defines it:
 *
 *     R = R + b (mean over columns of g^2 - R)      C = C + b (mean over rows of g^2 - C)
 *     u = g / sqrt(max(R C / max(mean R, eps1), eps1^2))
 *     p = p (1 - lr weight_decay) - alpha u / max(1, rms(u) / d)
 *
 * with b = step^beta2_decay, alpha = max(eps2, rms(p)) min(lr, 1 / sqrt(step)); a vector has a
 * running mean of each element instead of R and C. */
#include "common/elementwise_kernel.h"
#include "optim/adafactor/adafactor.h"

SIMD_INLINE vec gradient(const adafactor_matrix *m, size_t i, size_t n)
{
    return vec_mul(vec_load(m->tile->grad, m->tile->grad_dtype, i, n), vec_all(m->grad_scale));
}

/* The sum of the squares of `count` elements from i on, chunk after chunk, of whatever `part` puts
 * into a buffer. */
SIMD_INLINE double squares_of(const adafactor_matrix *m, size_t row, size_t i, size_t count,
                              vec (*part)(const adafactor_matrix *m, size_t row, size_t column,
                                          size_t i, size_t n))
{
    float values[ELEMENTWISE_CHUNK];
    double sum = 0;
    for (size_t first = 0; first < count; first += ELEMENTWISE_CHUNK) {
        size_t rest = count - first < ELEMENTWISE_CHUNK ? count - first : ELEMENTWISE_CHUNK;
        for (size_t k = 0; k < rest; k += LANES) {
            size_t n = rest - k < LANES ? rest - k : LANES;
            vec_store(values, ZDS_F32, k, n, part(m, row, first + k, i + first + k, n), false);
        }
        sum += elementwise_squares(values, rest);
    }
    return sum;
}

static vec gradient_part(const adafactor_matrix *m, size_t row, size_t column, size_t i, size_t n)
{
    (void)row, (void)column;
    return gradient(m, i, n);
}

static vec weight_part(const adafactor_matrix *m, size_t row, size_t column, size_t i, size_t n)
{
    (void)row, (void)column;
    return vec_load(m->tile->master, m->tile->master_dtype, i, n);
}

/* g / sqrt(variance) of a vector's worth of a row. */
static vec update_part(const adafactor_matrix *m, size_t row, size_t column, size_t i, size_t n)
{
    float factor = m->row ? m->row[row] * m->inverse_row_mean : 1;
    vec variance = vec_mul(vec_load(m->column, ZDS_F32, column, n), vec_all(factor));
    variance = vec_select(vec_less(variance, vec_all(m->least)), vec_all(m->least), variance);
    return vec_div(gradient(m, i, n), vec_sqrt(variance));
}

static double rows(const adafactor_matrix *m, size_t first, size_t count)
{
    double weights = 0;
    unsigned mode = simd_mode_flush();
    for (size_t r = first; r < first + count; r++) {
        size_t i = m->first + r * m->columns;
        weights += squares_of(m, r, i, m->columns, weight_part);
        if (m->row) {
            double mean = squares_of(m, r, i, m->columns, gradient_part) / (double)m->columns;
            m->row[r] += m->fresh * ((float)mean - m->row[r]);
        }
    }
    simd_mode_restore(mode);
    return weights;
}

/* Eight rows are added before they join the mean, which keeps its rounding small. */
static void columns(const adafactor_matrix *m, size_t first, size_t count)
{
    enum { TOGETHER = 8 };
    vec weight = vec_all(m->fresh / (float)m->rows);
    unsigned mode = simd_mode_flush();
    for (size_t k = first; k < first + count; k += LANES) {
        size_t n = first + count - k < LANES ? first + count - k : LANES;
        vec mean = vec_load(m->column, ZDS_F32, k, n);
        mean = vec_sub(mean, vec_mul(vec_all(m->fresh), mean));
        for (size_t r = 0; r < m->rows; r += TOGETHER) {
            vec sum = vec_all(0);
            for (size_t j = r; j < r + TOGETHER && j < m->rows; j++) {
                vec g = gradient(m, m->first + j * m->columns + k, n);
                sum = vec_fma(g, g, sum);
            }
            mean = vec_fma(weight, sum, mean);
        }
        vec_store(m->column, ZDS_F32, k, n, mean, false);
    }
    simd_mode_restore(mode);
}

static double norm(const adafactor_matrix *m, size_t first, size_t count)
{
    double sum = 0;
    unsigned mode = simd_mode_flush();
    for (size_t r = first; r < first + count; r++)
        sum += squares_of(m, r, m->first + r * m->columns, m->columns, update_part);
    simd_mode_restore(mode);
    return sum;
}

static void apply(const adafactor_matrix *m, size_t first, size_t count)
{
    const zds_tile *t = m->tile;
    unsigned mode = simd_mode_flush();
    for (size_t r = first; r < first + count; r++)
        for (size_t k = 0; k < m->columns; k += LANES) {
            size_t i = m->first + r * m->columns + k;
            size_t n = m->columns - k < LANES ? m->columns - k : LANES;
            vec p = vec_mul(vec_load(t->master, t->master_dtype, i, n), vec_all(m->keep));
            p = vec_fma(vec_all(-m->rate), update_part(m, r, k, i, n), p);
            elementwise_round(t->master, t->master_dtype, i, n, p, m->stochastic, (uint32_t)i,
                              m->key, -1);
            if (t->output)
                vec_store(t->output, t->output_dtype, i, n, p, false);
        }
    simd_mode_restore(mode);
}

const adafactor_kernels SIMD_NAME(adafactor) = {
    .rows = rows, .columns = columns, .norm = norm, .apply = apply};
