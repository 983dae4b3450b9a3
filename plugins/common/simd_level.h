/* Which of a kernel's variants (scalar, AVX2, AVX-512) this processor runs. */
#ifndef ZDS_SIMD_LEVEL_H
#define ZDS_SIMD_LEVEL_H

#include "zds/plugin.h"

#define SIMD_SCALAR 0
#define SIMD_AVX2   1 /* with FMA and F16C */
#define SIMD_AVX512 2 /* F, BW, DQ and VL */
#define SIMD_LEVELS 3

#if defined(__x86_64__)
/* Declares the variants of a kernel, and lists them for a table indexed by level. */
#define SIMD_DECLARE(result, name, ...)                                                            \
    result name##_scalar(__VA_ARGS__);                                                             \
    result name##_avx2(__VA_ARGS__);                                                               \
    result name##_avx512(__VA_ARGS__)
#define SIMD_TABLE(name)                                                                           \
    {                                                                                              \
        name##_scalar, name##_avx2, name##_avx512                                                  \
    }
#else
#define SIMD_DECLARE(result, name, ...) result name##_scalar(__VA_ARGS__)
#define SIMD_TABLE(name)                                                                           \
    {                                                                                              \
        name##_scalar                                                                              \
    }
#endif

/* The best level of this processor, or a lower one if ZDS_SIMD of the environment (scalar, avx2,
 * avx512) says so. ZDS_ERR_INVALID, through the host: ZDS_SIMD is none of these. */
zds_status simd_level(const zds_host *host, int *level);

#endif
