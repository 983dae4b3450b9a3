/* Kernels for AVX2 and FMA. */
#if defined(__x86_64__)
#define LANES        8
#define KERNELS      kernels_avx2
#define KERNELS_NAME "avx2"
#include "kernels_body.h"
#else
typedef int not_for_this_processor;
#endif
