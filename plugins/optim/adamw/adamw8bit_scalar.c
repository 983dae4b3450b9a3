/* AdamW8bit for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/adamw/adamw8bit_kernel.h"
