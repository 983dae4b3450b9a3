/* Kernels in vectors that every processor of the architecture has, and the choice at run time. */
#define LANES        4
#define KERNELS      kernels_plain
#define KERNELS_NAME "plain"
#include "kernels_body.h"

const kernels *kernels_best(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return &kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &kernels_avx2;
#endif
    return &kernels_plain;
}

void random_block(const random_stream *stream, uint32_t block, uint32_t out[4])
{
    uvec number[4];
    philox(stream, block, number);
    for (int j = 0; j < 4; j++)
        out[j] = number[j][0];
}
