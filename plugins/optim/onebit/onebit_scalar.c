/* The 1-bit optimizers for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/onebit/onebit_kernel.h"
