/* Adamax for AVX-512 processors. */
#define SIMD_LEVEL SIMD_AVX512
#include "optim/adamax/adamax_kernel.h"
