/* Lion for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/lion/lion_kernel.h"
