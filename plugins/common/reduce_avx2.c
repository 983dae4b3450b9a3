/* Reduction kernels for processors with AVX2 and F16C. */
#include "common/simd_level.h"

#define SIMD_LEVEL SIMD_AVX2
#include "common/reduce_kernel.h"
