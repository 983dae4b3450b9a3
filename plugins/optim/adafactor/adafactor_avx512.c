/* Adafactor for AVX-512 processors. */
#define SIMD_LEVEL SIMD_AVX512
#include "optim/adafactor/adafactor_kernel.h"
