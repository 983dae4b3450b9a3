/* RMSprop for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/rmsprop/rmsprop_kernel.h"
