/* NAdam for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/nadam/nadam_kernel.h"
