/* The 1-bit optimizers for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/onebit/onebit_kernel.h"
