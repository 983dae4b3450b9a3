/* ASGD for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/asgd/asgd_kernel.h"
