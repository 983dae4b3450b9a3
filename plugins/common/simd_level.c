/* Which of a kernel's variants (scalar, AVX2, AVX-512) this processor runs. */
#include "common/simd_level.h"

#include <stdlib.h>
#include <strings.h>

static int best_level(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) /* and so f16c */
        return SIMD_SCALAR;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return SIMD_AVX512;
    return SIMD_AVX2;
#else
    return SIMD_SCALAR;
#endif
}

zds_status simd_level(const zds_host *host, int *level)
{
    static const char *const names[SIMD_LEVELS] = {"scalar", "avx2", "avx512"};
    const char *wanted = getenv("ZDS_SIMD");
    *level = best_level();
    if (!wanted || !*wanted)
        return ZDS_OK;
    for (int i = 0; i < SIMD_LEVELS; i++)
        if (strcasecmp(wanted, names[i]) == 0) {
            if (i < *level)
                *level = i;
            return ZDS_OK;
        }
    return host->fail(
        host, ZDS_ERR_INVALID,
        "the environment's ZDS_SIMD is \"%s\"; write scalar, avx2 or avx512, or unset "
        "it to use the best that this processor has",
        wanted);
}
