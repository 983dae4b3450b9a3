/* Kernels for AVX-512 (F, BW, VL, DQ). */
#if defined(__x86_64__)
#define LANES        16
#define KERNELS      kernels_avx512
#define KERNELS_NAME "avx512"
#include "kernels_body.h"
#else
typedef int not_for_this_processor;
#endif
