/* NAdam for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/nadam/nadam_kernel.h"
