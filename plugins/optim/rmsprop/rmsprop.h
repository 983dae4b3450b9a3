/* Between RMSprop's plugin and its kernels. */
#ifndef OPTIM_RMSPROP_H
#define OPTIM_RMSPROP_H

#include "common/elementwise.h"

typedef struct rmsprop_constants {
    float lr, alpha, one_minus_alpha, eps, weight_decay, momentum;
} rmsprop_constants;

/* square_avg; then momentum_buffer and grad_avg where the kernel's name says so. */
SIMD_DECLARE(void, rmsprop_run, const elementwise *tile);
SIMD_DECLARE(void, rmsprop_run_momentum, const elementwise *tile);
SIMD_DECLARE(void, rmsprop_run_centered, const elementwise *tile);
SIMD_DECLARE(void, rmsprop_run_momentum_centered, const elementwise *tile);

#endif
