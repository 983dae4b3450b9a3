/* Rprop for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/rprop/rprop_kernel.h"
