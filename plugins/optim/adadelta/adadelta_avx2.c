/* Adadelta for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/adadelta/adadelta_kernel.h"
