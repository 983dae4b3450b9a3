/* RAdam for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/radam/radam_kernel.h"
