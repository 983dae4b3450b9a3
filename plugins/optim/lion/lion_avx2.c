/* Lion for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/lion/lion_kernel.h"
