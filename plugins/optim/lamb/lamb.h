/* Between Lamb's plugin and its kernels. */
#ifndef OPTIM_LAMB_H
#define OPTIM_LAMB_H

#include "common/elementwise.h"

typedef struct lamb_constants {
    float beta1, one_minus_beta1, beta2, one_minus_beta2;
    float eps_inside, eps_outside; /* one of them is 0 */
    float weight_decay;
    float rate; /* lr * sqrt(1 - beta2^step) / (1 - beta1^step), or lr */
    double min_coeff, max_coeff;
} lamb_constants;

SIMD_DECLARE(void, lamb_norms, const elementwise *tile); /* exp_avg, exp_avg_sq; two sums */
SIMD_DECLARE(void, lamb_run, const elementwise *tile);

#endif
