/* Between Adamax's plugin and its kernels. */
#ifndef OPTIM_ADAMAX_H
#define OPTIM_ADAMAX_H

#include "common/elementwise.h"

typedef struct adamax_constants {
    float beta1, one_minus_beta1, beta2, eps, weight_decay;
    float rate; /* lr / (1 - beta1^step) */
} adamax_constants;

SIMD_DECLARE(void, adamax_run, const elementwise *tile); /* exp_avg, exp_inf */

#endif
