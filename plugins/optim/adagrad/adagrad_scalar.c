/* Adagrad for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/adagrad/adagrad_kernel.h"
