/* AdamW8bit for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/adamw/adamw8bit_kernel.h"
