/* Adamax for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/adamax/adamax_kernel.h"
