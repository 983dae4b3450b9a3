/* Rprop for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/rprop/rprop_kernel.h"
