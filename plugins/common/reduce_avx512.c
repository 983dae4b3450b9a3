/* Reduction kernels for processors with AVX-512. */
#include "common/simd_level.h"

#define SIMD_LEVEL SIMD_AVX512
#include "common/reduce_kernel.h"
