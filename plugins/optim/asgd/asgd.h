/* Between ASGD's plugin and its kernels. */
#ifndef OPTIM_ASGD_H
#define OPTIM_ASGD_H

#include "common/elementwise.h"

typedef struct asgd_constants {
    float eta;          /* rate of this step */
    float keep;         /* 1 - lambd * eta */
    float weight_decay; /* added to the gradient */
    float mu;           /* weight of the parameter in the average */
} asgd_constants;

SIMD_DECLARE(void, asgd_run, const elementwise *tile); /* ax */

#endif
