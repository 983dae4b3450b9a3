/* RAdam for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/radam/radam_kernel.h"
