/* Between the 1-bit optimizers and their kernels. */
#ifndef OPTIM_ONEBIT_KERNELS_H
#define OPTIM_ONEBIT_KERNELS_H

#include "common/elementwise.h"

typedef struct onebit_constants {
    float beta1, one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay;
    float rate;
    double min_coeff, max_coeff; /* Lamb's */
} onebit_constants;

/* Of a tensor's update, from the sums of the squares of its weights and of the update. */
static inline double onebit_lamb_coefficient(const onebit_constants *c, const double *sums)
{
    double weight = sqrt(sums[0]), update = sqrt(sums[1]);
    if (weight == 0 || update == 0)
        return 1;
    double ratio = weight / update;
    return ratio > c->max_coeff ? c->max_coeff : ratio < c->min_coeff ? c->min_coeff : ratio;
}

/* Adam without bias correction; states exp_avg, exp_avg_sq. */
SIMD_DECLARE(void, onebit_adam, const elementwise *tile);
/* The gradient is the new exp_avg; exp_avg_sq stays. */
SIMD_DECLARE(void, onebit_adam_given, const elementwise *tile);
/* exp_avg moves by the gradient; exp_avg_sq stays. */
SIMD_DECLARE(void, onebit_adam_frozen, const elementwise *tile);
/* Both states stay: the weight alone moves. */
SIMD_DECLARE(void, onebit_move, const elementwise *tile);
/* Lamb: moments and two sums, then the weight by the clamped ratio of the sums. */
SIMD_DECLARE(void, onebit_lamb_norms, const elementwise *tile);
SIMD_DECLARE(void, onebit_lamb, const elementwise *tile);

/* A stretch of a momentum that is about to travel. */
typedef struct onebit_momentum {
    const float *exp_avg; /* NULL: beta1 is 0 */
    const void *grad;
    zds_dtype grad_dtype;
    float grad_scale, beta1, one_minus_beta1, factor;
} onebit_momentum;

/* A stretch of a tensor under OneBitLamb, once its momentum is known. */
typedef struct onebit_fresh {
    float *exp_avg; /* in: of the last step */
    const float *mean;
    float inverse_factor;
    /* The rest is NULL where this rank does not update the stretch. */
    const float *exp_avg_sq, *master;
    float *fresh; /* exp_avg_sq as it would be had it not been frozen */
    const onebit_constants *constants;
    /* out */
    double update_squares, decayed_squares; /* of the update without and with weight decay */
    float largest;                          /* of denominator / fresh denominator */
} onebit_fresh;

/* A stretch of a tensor in ZeroOneAdam's local steps. */
typedef struct onebit_local {
    float *exp_avg;
    const float *exp_avg_sq;
    float *drift;  /* sum of the updates since the last exchange */
    float *synced; /* the weight at the last exchange */
    float *master;
    void *output;
    zds_dtype output_dtype, grad_dtype;
    const void *grad;
    float grad_scale;
    bool starts; /* nothing has moved so far: drift is 0, synced the weight, whatever is there */
    bool still;  /* nothing moves in this step: there is no gradient */
    const onebit_constants *constants;
} onebit_local;

typedef struct onebit_kernels {
    /* out = factor (beta1 exp_avg + one_minus_beta1 grad_scale grad) */
    void (*momentum)(const onebit_momentum *m, size_t count, float *out);
    /* error += x; the sum of its squares, of which count is at most AVERAGE_BLOCK. */
    double (*add)(float *error, const float *x, size_t count);
    /* bits = sign(error); error -= scale sign(error). count: a multiple of 8. */
    void (*compress)(float *error, float scale, uint8_t *bits, size_t count);
    /* out = (add ? out : 0) + scale sign, sign from bits. count: a multiple of 8. */
    void (*expand)(float *out, const uint8_t *bits, float scale, bool add, size_t count);
    /* exp_avg = inverse_factor mean; fresh from the gradient that this exp_avg stands for; sums. */
    void (*fresh)(onebit_fresh *f, size_t count);
    double (*squares)(const float *x, size_t count);
    /* A step on this rank alone. */
    void (*local)(const onebit_local *l, size_t count);
    /* out = drift after this step, times the denominator; writes nothing else. */
    void (*local_drift)(const onebit_local *l, size_t count, float *out);
    /* The weight is the synced one plus mean / denominator; exp_avg = -inverse_rates mean. */
    void (*local_sync)(const onebit_local *l, size_t count, const float *mean, float inverse_rates);
} onebit_kernels;

SIMD_DECLARE(const onebit_kernels *, onebit_kernels_of, void);

#endif
