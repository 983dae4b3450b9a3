/* AdamW8bit for AVX-512 processors. */
#define SIMD_LEVEL SIMD_AVX512
#include "optim/adamw/adamw8bit_kernel.h"
