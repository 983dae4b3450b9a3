/* Adamax for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/adamax/adamax_kernel.h"
