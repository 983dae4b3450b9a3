/* Reduction kernels for any processor. */
#include "common/simd_level.h"

#define SIMD_LEVEL SIMD_SCALAR
#include "common/reduce_kernel.h"
