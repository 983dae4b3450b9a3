/* Adadelta for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/adadelta/adadelta_kernel.h"
