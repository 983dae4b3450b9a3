/* Between Adagrad's plugin and its kernels. */
#ifndef OPTIM_ADAGRAD_H
#define OPTIM_ADAGRAD_H

#include "common/elementwise.h"

typedef struct adagrad_constants {
    float rate; /* lr / (1 + (step - 1) * lr_decay) */
    float eps, weight_decay;
} adagrad_constants;

SIMD_DECLARE(void, adagrad_run, const elementwise *tile); /* sum */

#endif
