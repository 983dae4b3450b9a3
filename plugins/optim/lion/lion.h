/* Between Lion's plugin and its kernels. */
#ifndef OPTIM_LION_H
#define OPTIM_LION_H

#include "common/elementwise.h"

typedef struct lion_constants {
    float beta1, one_minus_beta1, beta2, one_minus_beta2;
    float lr, decay; /* decay: lr * weight_decay */
} lion_constants;

SIMD_DECLARE(void, lion_run, const elementwise *tile); /* exp_avg */

#endif
