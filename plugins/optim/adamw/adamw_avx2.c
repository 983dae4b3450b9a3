/* Adam for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/adamw/adamw_kernel.h"
