/* ASGD for AVX-512 processors. */
#define SIMD_LEVEL SIMD_AVX512
#include "optim/asgd/asgd_kernel.h"
