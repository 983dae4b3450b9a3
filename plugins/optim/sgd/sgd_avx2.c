/* SGD for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/sgd/sgd_kernel.h"
