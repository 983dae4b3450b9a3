/* Between SGD's plugin and its kernels. */
#ifndef OPTIM_SGD_H
#define OPTIM_SGD_H

#include "common/elementwise.h"

typedef struct sgd_constants {
    float lr, weight_decay;
    float momentum; /* of the buffer: 0 in a parameter's first step */
    float weight;   /* of the gradient in the buffer: 1 - dampening; 1 in the first step */
    float nesterov; /* of the buffer, where it is added to the gradient */
    bool is_nesterov;
} sgd_constants;

SIMD_DECLARE(void, sgd_run, const elementwise *tile);
SIMD_DECLARE(void, sgd_run_momentum, const elementwise *tile); /* momentum_buffer */

#endif
