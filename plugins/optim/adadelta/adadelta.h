/* Between Adadelta's plugin and its kernels. */
#ifndef OPTIM_ADADELTA_H
#define OPTIM_ADADELTA_H

#include "common/elementwise.h"

typedef struct adadelta_constants {
    float lr, rho, one_minus_rho, eps, weight_decay;
} adadelta_constants;

SIMD_DECLARE(void, adadelta_run, const elementwise *tile); /* square_avg, acc_delta */

#endif
