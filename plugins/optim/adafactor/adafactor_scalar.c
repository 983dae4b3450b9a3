/* Adafactor for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/adafactor/adafactor_kernel.h"
