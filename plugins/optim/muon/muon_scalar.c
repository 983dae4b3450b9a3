/* Muon for any processor. */
#define SIMD_LEVEL SIMD_SCALAR
#include "optim/muon/muon_kernel.h"
