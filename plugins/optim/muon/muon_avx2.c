/* Muon for AVX2 processors. */
#define SIMD_LEVEL SIMD_AVX2
#include "optim/muon/muon_kernel.h"
