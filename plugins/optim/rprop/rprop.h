/* Between Rprop's plugin and its kernels. */
#ifndef OPTIM_RPROP_H
#define OPTIM_RPROP_H

#include "common/elementwise.h"

enum { RPROP_NONE = -1 }; /* step_size of a parameter that has had no gradient yet */

typedef struct rprop_constants {
    float first; /* step_size of a parameter's first step: the rate in that step */
    float shrink, grow, least, most;
} rprop_constants;

SIMD_DECLARE(void, rprop_run, const elementwise *tile); /* step_size, prev */

#endif
