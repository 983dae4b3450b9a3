/* Between AdamW8bit's plugin and its kernels: block-wise states of 8 bits. */
#ifndef OPTIM_ADAMW8BIT_H
#define OPTIM_ADAMW8BIT_H

#include "common/elementwise.h"

enum {
    ADAMW8BIT_BLOCK = 256, /* elements that share an absolute maximum */
    ADAMW8BIT_VERSION = 1  /* of the states: another code or block is another version */
};

/* Computed in double once per step and group. */
typedef struct adamw8bit_constants {
    float beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
    float inverse_sqrt_bias2; /* 1 / sqrt(1 - beta2^step) */
    float rate;               /* lr / (1 - beta1^step) */
    float keep;               /* 1 - lr * weight_decay */
} adamw8bit_constants;

/* states: codes of exp_avg, codes of exp_avg_sq, absolute maximum of each block of either. The tile
 * starts with a block. */
SIMD_DECLARE(void, adamw8bit_run, const elementwise *tile);

#endif
