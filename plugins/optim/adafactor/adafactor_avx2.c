/* Adafactor for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/adafactor/adafactor_kernel.h"
