/* The loops of the model that are no matrix products: normalisation, activation, softmax, dropout.
 *
 * One body (kernels_body.h) compiled for plain C, AVX2 and AVX-512; kernels_best chooses at run
 * time. Matrices are row-major; `ld` is the distance of rows in elements. */
#ifndef ZDS_TRAIN_KERNELS_H
#define ZDS_TRAIN_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zds/types.h"

typedef enum activation {
    ACTIVATION_GELU_NEW, /* x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), the tanh form */
    ACTIVATION_GELU,     /* x Phi(x) */
    ACTIVATION_RELU,
    ACTIVATION_SILU,
    ACTIVATION_TANH
} activation;

/* Which random numbers: Philox4x32-10 (Salmon et al. 2011) with `key` and the counter
 * {block, counter[0], counter[1], counter[2]}. Word j of block 16 g + i makes element 64 g + 16 j +
 * i.
 */
typedef struct random_stream {
    uint32_t key[2];
    uint32_t counter[3];
} random_stream;

typedef struct kernels {
    const char *name;
    /* stats (rows, 2): mean and 1/sqrt(variance + eps). y = (x - mean) * rstd * w + b */
    void (*norm_forward)(size_t rows, size_t d, const float *x, const float *w, const float *b,
                         float eps, float *y, float *stats);
    void (*norm_apply)(size_t rows, size_t d, const float *x, const float *w, const float *b,
                       const float *stats, float *y);
    /* dx = residual + the gradient through the norm (residual may be NULL); dx may be x, residual
     * may be dx. sums (2, d): dw and db of these rows. dy is overwritten. */
    void (*norm_backward)(size_t rows, size_t d, float *dy, const float *x, const float *w,
                          const float *stats, const float *residual, float *dx, float *sums);
    /* y = x + mask * (t + bias); mask (rows, d) or NULL; y may be x */
    void (*residual)(size_t rows, size_t d, const float *x, const float *t, const float *bias,
                     const float *mask, float *y);
    /* y = a * b */
    void (*multiply)(size_t n, const float *a, const float *b, float *y);
    /* y (rows, n; ld_y) = f(h + bias) */
    void (*activate)(activation kind, size_t rows, size_t n, const float *h, size_t ld,
                     const float *bias, float *y, size_t ld_y);
    /* in: h, g = the gradient of f(h + bias); out: h = the gradient of h, g = f(h + bias), sums
     * (n): columns of the new h added up */
    void (*activate_backward)(activation kind, size_t rows, size_t n, float *h, size_t ld,
                              const float *bias, float *g, size_t ld_g, float *sums);
    /* s (columns) <- softmax of its first `valid`, the rest 0; returns log of the sum of exp */
    float (*softmax)(size_t valid, size_t columns, float *s);
    /* s (columns) <- exp(s - lse) for its first `valid`, the rest 0 */
    void (*exponentials)(size_t valid, size_t columns, float lse, float *s);
    /* s <- (ds - sum(s * ds)) * s for a row of a softmax and its gradient */
    void (*softmax_backward)(size_t columns, const float *p, const float *dp, float *ds);
    /* largest of x */
    float (*largest)(size_t n, const float *x);
    /* sum of exp(x - shift) */
    float (*sum_exp)(size_t n, const float *x, float shift);
    /* x <- scale * exp(x - lse) */
    void (*scaled_exp)(size_t n, float lse, float scale, float *x);
    /* y (rows, n; ld_y) = scale * (x + bias); bias may be NULL */
    void (*scale_bias)(size_t rows, size_t n, const float *x, size_t ld, const float *bias,
                       float scale, float *y, size_t ld_y);
    /* sums (n) = columns of x added up, from the first row to the last */
    void (*column_sums)(size_t rows, size_t n, const float *x, size_t ld, float *sums);
    /* y (n, rows; ld_y) = x (rows, n; ld) transposed */
    void (*transpose)(size_t rows, size_t n, const float *x, size_t ld, float *y, size_t ld_y);
    /* y += x */
    void (*add)(size_t n, const float *x, float *y);
    /* `dtype` is ZDS_BF16 or ZDS_F16 */
    void (*from_half)(zds_dtype dtype, size_t n, const uint16_t *x, float *y);
    /* y = half(x), or half(y + x); to nearest even */
    void (*to_half)(zds_dtype dtype, size_t n, const float *x, bool accumulate, uint16_t *y);
    /* mask[i] = 0 with probability rate, else 1 / (1 - rate), for elements first to first + n */
    void (*dropout_mask)(const random_stream *stream, uint64_t first, size_t n, double rate,
                         float *mask);
    /* elements first to first + n of a standard normal sequence, times std (Box and Muller 1958) */
    void (*normals)(const random_stream *stream, uint64_t first, size_t n, float std, float *out);
} kernels;

extern const kernels kernels_plain;
#if defined(__x86_64__)
extern const kernels kernels_avx2, kernels_avx512;
#endif

/* What this processor runs fastest. */
const kernels *kernels_best(void);

/* Four numbers of the stream. */
void random_block(const random_stream *stream, uint32_t block, uint32_t out[4]);

#endif
