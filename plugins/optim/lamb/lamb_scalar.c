/* Lamb for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/lamb/lamb_kernel.h"
