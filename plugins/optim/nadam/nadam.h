/* Between NAdam's plugin and its kernels. */
#ifndef OPTIM_NADAM_H
#define OPTIM_NADAM_H

#include "common/elementwise.h"

typedef struct nadam_constants {
    float beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
    float inverse_sqrt_bias2; /* 1 / sqrt(1 - beta2^step) */
    float grad_rate, mean_rate;
    float l2;    /* weight decay that is added to the gradient, or 0 */
    float decay; /* lr * weight_decay that is taken from the weight, or 0 */
} nadam_constants;

SIMD_DECLARE(void, nadam_run, const elementwise *tile); /* exp_avg, exp_avg_sq */

#endif
