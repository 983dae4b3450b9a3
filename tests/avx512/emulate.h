/* AVX-512 for processors that have none, so that kernels written for it run in tests anywhere:
 * SIMDe's intrinsics, and after the descriptions of Intel's manual those that Debian 12's SIMDe
 * lacks. Included first in every file by the build with ZDS_EMULATE_AVX512; what is tested is the
 * kernels' C, not the code that a compiler makes of it. */
#ifndef ZDS_TESTS_EMULATE_H
#define ZDS_TESTS_EMULATE_H

#define __builtin_cpu_supports(feature) 1

#ifdef ZDS_KERNEL_AVX512
#include <stdint.h>
#include <string.h>

#include <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#define EMULATE static inline __attribute__((unused))

/* The values of a vector, to write and read one by one. */
typedef union emulated {
    __m512 ps;
    __m512i si;
    float f[16];
    int32_t i[16];
    uint32_t u[16];
    uint16_t h[32];
} emulated;

EMULATE __m512i emulated_cvtepu8_epi32(__m128i a)
{
    uint8_t bytes[16];
    emulated r;
    memcpy(bytes, &a, sizeof bytes);
    for (int k = 0; k < 16; k++)
        r.u[k] = bytes[k];
    return r.si;
}
EMULATE __m512i emulated_cvtepu16_epi32(__m256i a)
{
    uint16_t words[16];
    emulated r;
    memcpy(words, &a, sizeof words);
    for (int k = 0; k < 16; k++)
        r.u[k] = words[k];
    return r.si;
}
EMULATE __m256i emulated_cvtepi32_epi16(__m512i a)
{
    emulated v = {.si = a};
    uint16_t words[16];
    __m256i r;
    for (int k = 0; k < 16; k++)
        words[k] = (uint16_t)v.u[k];
    memcpy(&r, words, sizeof r);
    return r;
}
/* Taken as unsigned: above 255 becomes 255. */
EMULATE __m128i emulated_cvtusepi32_epi8(__m512i a)
{
    emulated v = {.si = a};
    uint8_t bytes[16];
    __m128i r;
    for (int k = 0; k < 16; k++)
        bytes[k] = (uint8_t)(v.u[k] > 255 ? 255 : v.u[k]);
    memcpy(&r, bytes, sizeof r);
    return r;
}
/* Towards 0; what does not fit, and NaN, becomes the smallest integer. */
EMULATE __m512i emulated_cvttps_epi32(__m512 a)
{
    emulated v = {.ps = a}, r;
    for (int k = 0; k < 16; k++)
        r.i[k] = v.f[k] >= -0x1p31f && v.f[k] < 0x1p31f ? (int32_t)v.f[k] : INT32_MIN;
    return r.si;
}
EMULATE __m512i emulated_mulhi_epu16(__m512i a, __m512i b)
{
    emulated x = {.si = a}, y = {.si = b}, r;
    for (int k = 0; k < 32; k++)
        r.h[k] = (uint16_t)((uint32_t)x.h[k] * y.h[k] >> 16);
    return r.si;
}
/* The order of the manual: halves, quarters, ...; each maxps gives its second operand if one is
 * NaN. */
EMULATE float emulated_reduce_max_ps(__m512 a)
{
    emulated v = {.ps = a};
    for (int width = 8; width > 0; width /= 2)
        for (int k = 0; k < width; k++)
            v.f[k] = v.f[k] > v.f[k + width] ? v.f[k] : v.f[k + width];
    return v.f[0];
}
/* F16C's, half by half. */
EMULATE __m512 emulated_cvtph_ps(__m256i a)
{
    __m256 halves[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(a)),
                        _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
    __m512 r;
    memcpy(&r, halves, sizeof r);
    return r;
}
EMULATE __m256i emulated_cvtps_ph(__m512 a)
{
    __m256 halves[2];
    memcpy(halves, &a, sizeof a);
    return _mm256_set_m128i(_mm256_cvtps_ph(halves[1], _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(halves[0], _MM_FROUND_TO_NEAREST_INT));
}
/* The caller's claim of alignment is checked, as the processor does. */
EMULATE void emulated_stream_ps(float *p, __m512 a)
{
    if ((uintptr_t)p % 64 != 0)
        __builtin_trap();
    memcpy(p, &a, sizeof a);
}

#define _mm512_cvtepu8_epi32    emulated_cvtepu8_epi32
#define _mm512_cvtepu16_epi32   emulated_cvtepu16_epi32
#define _mm512_cvtepi32_epi16   emulated_cvtepi32_epi16
#define _mm512_cvtusepi32_epi8  emulated_cvtusepi32_epi8
#define _mm512_cvttps_epi32     emulated_cvttps_epi32
#define _mm512_mulhi_epu16      emulated_mulhi_epu16
#define _mm512_reduce_max_ps    emulated_reduce_max_ps
#define _mm512_cvtph_ps         emulated_cvtph_ps
#define _mm512_cvtps_ph(a, how) emulated_cvtps_ph(a)
#define _mm512_stream_ps        emulated_stream_ps
#endif

#endif
