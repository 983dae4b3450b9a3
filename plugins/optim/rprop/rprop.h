/* Between Rprop's plugin and its kernels. */
#ifndef OPTIM_RPROP_H
#define OPTIM_RPROP_H

#include "common/elementwise.h"

typedef struct rprop_constants {
    float shrink, grow, least, most;
} rprop_constants;

SIMD_DECLARE(void, rprop_run, const elementwise *tile); /* step_size, prev */

#endif
