/* Vectors of floats over small wrappers: a kernel's body is written once and compiled once for each
 * kind of processor.
 *
 * A kernel is a file NAME_kernel.c, which the build compiles for each kind of processor, with its
 * flags and SIMD_LEVEL (see cmake/plugins.cmake). SIMD_NAME(f) is then f_scalar, f_avx2 or
 * f_avx512. Which one runs is chosen by simd_level (see simd_level.h).
 *
 * All levels give the same bits: each operation below is one IEEE operation rounded once (fma
 * included), nothing is reordered, and conversions follow the processor's. The payload of a NaN is
 * the only thing that may differ. */
#ifndef ZDS_SIMD_H
#define ZDS_SIMD_H

#include <math.h>
#include <string.h>

#include "common/simd_level.h"
#include "zds/types.h"

#ifndef SIMD_LEVEL
#error "SIMD_LEVEL is not defined: only kernels include simd.h"
#endif

#if SIMD_LEVEL != SIMD_SCALAR
#include <immintrin.h>
#elif defined(__x86_64__)
#include <xmmintrin.h>
#endif

#define SIMD_INLINE static inline __attribute__((always_inline, unused))

#define SIMD_PASTE2(a, b) a##_##b
#define SIMD_PASTE(a, b)  SIMD_PASTE2(a, b)
#define SIMD_NAME(name)   SIMD_PASTE(name, SIMD_SUFFIX)

/* === one element === */

SIMD_INLINE float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

SIMD_INLINE uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

SIMD_INLINE float float_of_bf16(uint16_t half)
{
    return float_of_bits((uint32_t)half << 16);
}

/* To nearest even; a NaN stays one, made quiet. */
SIMD_INLINE uint16_t bf16_of_float(float value)
{
    uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* As vcvtph2ps: exact, a NaN is made quiet. Integers only, so that subnormals do not depend on the
 * processor's mode. */
SIMD_INLINE float float_of_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 0x1fu;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 0x1fu)
        return float_of_bits(sign | 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0));
    if (exponent == 0) {
        if (fraction == 0)
            return float_of_bits(sign);
        uint32_t shift = (uint32_t)__builtin_clz(fraction) - 21; /* until bit 10 is the leading 1 */
        return float_of_bits(sign | (113 - shift) << 23 | (fraction << shift & 0x3ffu) << 13);
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/* As vcvtps2ph: to nearest even, too large becomes infinite, a NaN is made quiet. */
SIMD_INLINE uint16_t f16_of_float(float value)
{
    uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (bits >> 13 & 0x3ffu));
    if (bits >= 0x477ff000u) /* 65520: halfway between the largest f16 and 65536 */
        return (uint16_t)(sign | 0x7c00u);
    if (bits >= 0x38800000u) /* 2^-14, the smallest normal f16 */
        return (uint16_t)(sign | (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13);
    if (bits < 0x33000000u) /* below 2^-25: nearer to 0 */
        return (uint16_t)sign;
    uint32_t fraction = (bits & 0x7fffffu) | 0x800000u, shift = 126 - (bits >> 23);
    uint32_t kept = fraction >> shift, rest = fraction & ((1u << shift) - 1),
             half = 1u << (shift - 1);
    return (uint16_t)(sign | (kept + (rest > half || (rest == half && (kept & 1u)))));
}

/* === vectors === */

/* vec: LANES floats. vec_mask: a truth value a lane, in bits: lane i at bit i. */
#if SIMD_LEVEL == SIMD_AVX512

#define SIMD_SUFFIX avx512
enum { LANES = 16 };
typedef __m512 vec;
typedef __mmask16 vec_mask;

SIMD_INLINE vec vec_all(float a)
{
    return _mm512_set1_ps(a);
}
SIMD_INLINE vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}
SIMD_INLINE vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}
SIMD_INLINE vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}
SIMD_INLINE vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}
SIMD_INLINE vec vec_sqrt(vec a)
{
    return _mm512_sqrt_ps(a);
}
SIMD_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}
SIMD_INLINE vec vec_abs(vec a)
{
    return _mm512_abs_ps(a);
}
SIMD_INLINE vec_mask vec_less(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
SIMD_INLINE vec_mask vec_is_nan(vec a)
{
    return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
}
SIMD_INLINE vec vec_select(vec_mask m, vec a, vec b)
{
    return _mm512_mask_blend_ps(m, b, a);
}
SIMD_INLINE uint32_t bits_of_mask(vec_mask m)
{
    return m;
}
SIMD_INLINE vec_mask mask_of_bits(uint32_t bits)
{
    return (vec_mask)bits;
}

SIMD_INLINE vec load_f32(const float *p)
{
    return _mm512_loadu_ps(p);
}
SIMD_INLINE void store_f32(float *p, vec a)
{
    _mm512_storeu_ps(p, a);
}
SIMD_INLINE vec load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
SIMD_INLINE void store_bf16(uint16_t *p, vec a, bool stream)
{
    __m512i bits = _mm512_castps_si512(a), high = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    rounded = _mm512_mask_or_epi32(_mm512_srli_epi32(rounded, 16), vec_is_nan(a), high,
                                   _mm512_set1_epi32(0x40));
    __m256i out = _mm512_cvtepi32_epi16(rounded);
    if (stream)
        _mm256_stream_si256((__m256i *)(void *)p, out);
    else
        _mm256_storeu_si256((__m256i *)(void *)p, out);
}
SIMD_INLINE vec load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
SIMD_INLINE void store_f16(uint16_t *p, vec a, bool stream)
{
    __m256i out = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (stream)
        _mm256_stream_si256((__m256i *)(void *)p, out);
    else
        _mm256_storeu_si256((__m256i *)(void *)p, out);
}

#elif SIMD_LEVEL == SIMD_AVX2

#define SIMD_SUFFIX avx2
enum { LANES = 8 };
typedef __m256 vec;
typedef __m256 vec_mask;

SIMD_INLINE vec vec_all(float a)
{
    return _mm256_set1_ps(a);
}
SIMD_INLINE vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}
SIMD_INLINE vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}
SIMD_INLINE vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}
SIMD_INLINE vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}
SIMD_INLINE vec vec_sqrt(vec a)
{
    return _mm256_sqrt_ps(a);
}
SIMD_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}
SIMD_INLINE vec vec_abs(vec a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
SIMD_INLINE vec_mask vec_less(vec a, vec b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
SIMD_INLINE vec_mask vec_is_nan(vec a)
{
    return _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
}
SIMD_INLINE vec vec_select(vec_mask m, vec a, vec b)
{
    return _mm256_blendv_ps(b, a, m);
}
SIMD_INLINE uint32_t bits_of_mask(vec_mask m)
{
    return (uint32_t)_mm256_movemask_ps(m);
}
SIMD_INLINE vec_mask mask_of_bits(uint32_t bits)
{
    __m256i one = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_and_si256(_mm256_set1_epi32((int)bits), one);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, one));
}

SIMD_INLINE vec load_f32(const float *p)
{
    return _mm256_loadu_ps(p);
}
SIMD_INLINE void store_f32(float *p, vec a)
{
    _mm256_storeu_ps(p, a);
}
SIMD_INLINE vec load_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
SIMD_INLINE void store_16(uint16_t *p, __m128i out, bool stream)
{
    if (stream)
        _mm_stream_si128((__m128i *)(void *)p, out);
    else
        _mm_storeu_si128((__m128i *)(void *)p, out);
}
SIMD_INLINE void store_bf16(uint16_t *p, vec a, bool stream)
{
    __m256i bits = _mm256_castps_si256(a), high = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    rounded = _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), quiet,
                                 _mm256_castps_si256(vec_is_nan(a)));
    store_16(
        p, _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)),
        stream);
}
SIMD_INLINE vec load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
SIMD_INLINE void store_f16(uint16_t *p, vec a, bool stream)
{
    store_16(p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), stream);
}

#else

#define SIMD_SUFFIX scalar
enum { LANES = 1 };
typedef float vec;
typedef bool vec_mask;

SIMD_INLINE vec vec_all(float a)
{
    return a;
}
SIMD_INLINE vec vec_add(vec a, vec b)
{
    return a + b;
}
SIMD_INLINE vec vec_sub(vec a, vec b)
{
    return a - b;
}
SIMD_INLINE vec vec_mul(vec a, vec b)
{
    return a * b;
}
SIMD_INLINE vec vec_div(vec a, vec b)
{
    return a / b;
}
SIMD_INLINE vec vec_sqrt(vec a)
{
    return sqrtf(a);
}
SIMD_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return fmaf(a, b, c);
}
SIMD_INLINE vec vec_abs(vec a)
{
    return fabsf(a);
}
SIMD_INLINE vec_mask vec_less(vec a, vec b)
{
    return a < b;
}
SIMD_INLINE vec_mask vec_is_nan(vec a)
{
    return a != a;
}
SIMD_INLINE vec vec_select(vec_mask m, vec a, vec b)
{
    return m ? a : b;
}
SIMD_INLINE uint32_t bits_of_mask(vec_mask m)
{
    return m;
}
SIMD_INLINE vec_mask mask_of_bits(uint32_t bits)
{
    return bits & 1u;
}

SIMD_INLINE vec load_f32(const float *p)
{
    return *p;
}
SIMD_INLINE void store_f32(float *p, vec a)
{
    *p = a;
}
SIMD_INLINE vec load_bf16(const uint16_t *p)
{
    return float_of_bf16(*p);
}
SIMD_INLINE void store_bf16(uint16_t *p, vec a, bool stream)
{
    (void)stream;
    *p = bf16_of_float(a);
}
SIMD_INLINE vec load_f16(const uint16_t *p)
{
    return float_of_f16(*p);
}
SIMD_INLINE void store_f16(uint16_t *p, vec a, bool stream)
{
    (void)stream;
    *p = f16_of_float(a);
}

#endif

/* === vectors of any element type === */

/* LANES elements, or the first n < LANES of them, at element i of `base`; lanes past n are 0. What
 * lies past them in memory is not touched. `dtype` is F32, BF16 or F16. */
SIMD_INLINE vec vec_load(const void *base, zds_dtype dtype, size_t i, size_t n)
{
    if (dtype == ZDS_F32) {
        const float *p = (const float *)base + i;
        float part[LANES] = {0};
        if (n == LANES)
            return load_f32(p);
        memcpy(part, p, n * sizeof *p);
        return load_f32(part);
    }
    const uint16_t *p = (const uint16_t *)base + i;
    uint16_t part[LANES] = {0};
    if (n != LANES) {
        memcpy(part, p, n * sizeof *p);
        p = part;
    }
    return dtype == ZDS_BF16 ? load_bf16(p) : load_f16(p);
}

/* The reverse, rounded to nearest even. `stream`: write around the caches; only for 16-bit types,
 * whole vectors, and addresses that are a multiple of the vector's bytes; simd_stream_end must
 * follow before others read. */
SIMD_INLINE void vec_store(void *base, zds_dtype dtype, size_t i, size_t n, vec a, bool stream)
{
    if (dtype == ZDS_F32) {
        float *p = (float *)base + i;
        float part[LANES];
        if (n == LANES) {
            store_f32(p, a);
            return;
        }
        store_f32(part, a);
        memcpy(p, part, n * sizeof *p);
        return;
    }
    uint16_t *p = (uint16_t *)base + i;
    uint16_t part[LANES];
    uint16_t *to = n == LANES ? p : part;
    if (dtype == ZDS_BF16)
        store_bf16(to, a, stream && n == LANES);
    else
        store_f16(to, a, stream && n == LANES);
    if (to == part)
        memcpy(p, part, n * sizeof *p);
}

SIMD_INLINE void simd_stream_end(void)
{
#if SIMD_LEVEL != SIMD_SCALAR
    _mm_sfence();
#endif
}

/* Between these two, values below 2^-126 are taken as zero. Moments of parameters that get no
 * gradient decay into that range and stay there, where some processors are a hundred times slower.
 * `simd_mode` goes back to simd_mode_restore. */
SIMD_INLINE unsigned simd_mode_flush(void)
{
#if defined(__x86_64__)
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040u);
    return mode;
#else
    return 0;
#endif
}

SIMD_INLINE void simd_mode_restore(unsigned mode)
{
#if defined(__x86_64__)
    _mm_setcsr(mode);
#else
    (void)mode;
#endif
}

#endif
