/* Between RAdam's plugin and its kernels. */
#ifndef OPTIM_RADAM_H
#define OPTIM_RADAM_H

#include "common/elementwise.h"

typedef struct radam_constants {
    float beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
    float rate;    /* of the running mean, all corrections included */
    float l2;      /* weight decay that is added to the gradient, or 0 */
    float decay;   /* lr * weight_decay that is taken from the weight, or 0 */
    bool adaptive; /* divide by the root of the mean square */
} radam_constants;

SIMD_DECLARE(void, radam_run, const elementwise *tile); /* exp_avg, exp_avg_sq */

#endif
