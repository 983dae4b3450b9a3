/* Lamb for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/lamb/lamb_kernel.h"
