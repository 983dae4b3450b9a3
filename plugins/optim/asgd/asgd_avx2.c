/* ASGD for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/asgd/asgd_kernel.h"
