/* Adagrad for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/adagrad/adagrad_kernel.h"
