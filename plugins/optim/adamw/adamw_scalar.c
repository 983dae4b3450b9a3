/* Adam for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/adamw/adamw_kernel.h"
