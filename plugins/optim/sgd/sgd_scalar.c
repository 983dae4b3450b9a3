/* SGD for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/sgd/sgd_kernel.h"
