/* The 1-bit optimizers for AVX-512 processors. */
#define SIMD_LEVEL SIMD_AVX512
#include "optim/onebit/onebit_kernel.h"
