/* RMSprop for all processors. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/rmsprop/rmsprop_kernel.h"
