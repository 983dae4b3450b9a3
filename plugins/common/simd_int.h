/* Vectors of 32-bit integers beside simd.h's vectors of floats, as far as kernels need them: bits
 * of floats, bytes to floats and back, lookups in tables of eight. All levels give the same bits.
 */
#ifndef ZDS_SIMD_INT_H
#define ZDS_SIMD_INT_H

#include "common/simd.h"

enum { TABLE = 8, BYTES = 4 * LANES /* what ivec_store_bytes stores */ };

/* What the functions below do, where the name does not say it:
 *  ivec_high_scale       ((a - base, or 0) * factor) >> 16 of upper halves; base's lower are 0
 *  ivec_with_sign        a, negated where `sign` is negative; `a` must be 0 where `sign` is 0
 *  ivec_decrement_where  a - 1 in those lanes, a in the others
 *  vec_table_at          entry `index` modulo 8
 *  vec_bytes_above_2_23  2^23 + byte: exact, and one operation less than a conversion
 *  ivec_store_bytes      a[0..4) + offset as BYTES bytes, cut off at 0 and 255
 *  vec_max, vec_min      b where a or b is NaN */

#if SIMD_LEVEL == SIMD_AVX512

typedef __m512i ivec;
typedef __m512 vec_table; /* twice the eight values */

SIMD_INLINE ivec ivec_of_bits(vec a)
{
    return _mm512_castps_si512(a);
}
SIMD_INLINE vec vec_of_bits(ivec a)
{
    return _mm512_castsi512_ps(a);
}
SIMD_INLINE ivec ivec_add(ivec a, ivec b)
{
    return _mm512_add_epi32(a, b);
}
SIMD_INLINE ivec ivec_left(ivec a, int bits)
{
    return _mm512_slli_epi32(a, (unsigned)bits);
}
SIMD_INLINE ivec ivec_right(ivec a, int bits)
{
    return _mm512_srli_epi32(a, (unsigned)bits);
}
SIMD_INLINE ivec ivec_truncate(vec a)
{
    return _mm512_cvttps_epi32(a);
}
SIMD_INLINE ivec ivec_decrement_where(vec_mask m, ivec a)
{
    return _mm512_mask_sub_epi32(a, m, a, _mm512_set1_epi32(1));
}
SIMD_INLINE ivec ivec_with_sign(ivec a, vec sign)
{
    return _mm512_mask_sub_epi32(a, _mm512_movepi32_mask(ivec_of_bits(sign)),
                                 _mm512_setzero_si512(), a);
}
SIMD_INLINE ivec ivec_high_scale(ivec a, ivec base, uint16_t factor)
{
    a = _mm512_subs_epu16(a, base);
    a = _mm512_mulhi_epu16(a, _mm512_set1_epi32((int)((uint32_t)factor << 16)));
    return _mm512_srli_epi32(a, 16);
}
SIMD_INLINE vec vec_sign_of(vec a)
{
    return _mm512_and_ps(a, _mm512_set1_ps(-0.0f));
}
SIMD_INLINE vec vec_xor(vec a, vec b)
{
    return _mm512_xor_ps(a, b);
}
SIMD_INLINE vec_table vec_table_scaled(const float *values, float factor)
{
    __m512 twice = _mm512_broadcast_f32x8(_mm256_loadu_ps(values));
    return _mm512_mul_ps(twice, _mm512_set1_ps(factor));
}
SIMD_INLINE vec vec_table_at(const vec_table *t, ivec index)
{
    return _mm512_permutexvar_ps(index, *t);
}
SIMD_INLINE vec vec_bytes_above_2_23(const uint8_t *p)
{
    __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_or_si512(wide, _mm512_set1_epi32(0x4b000000)));
}
SIMD_INLINE void ivec_store_bytes(uint8_t *p, const ivec *a, int16_t offset)
{
    for (int i = 0; i < 4; i++) {
        __m512i moved = _mm512_add_epi32(a[i], _mm512_set1_epi32(offset));
        moved = _mm512_max_epi32(moved, _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(void *)(p + i * LANES), _mm512_cvtusepi32_epi8(moved));
    }
}
SIMD_INLINE float vec_largest(vec a)
{
    return _mm512_reduce_max_ps(a);
}
SIMD_INLINE vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}
SIMD_INLINE vec vec_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

#elif SIMD_LEVEL == SIMD_AVX2

typedef __m256i ivec;
typedef __m256 vec_table;

SIMD_INLINE ivec ivec_of_bits(vec a)
{
    return _mm256_castps_si256(a);
}
SIMD_INLINE vec vec_of_bits(ivec a)
{
    return _mm256_castsi256_ps(a);
}
SIMD_INLINE ivec ivec_add(ivec a, ivec b)
{
    return _mm256_add_epi32(a, b);
}
SIMD_INLINE ivec ivec_left(ivec a, int bits)
{
    return _mm256_slli_epi32(a, bits);
}
SIMD_INLINE ivec ivec_right(ivec a, int bits)
{
    return _mm256_srli_epi32(a, bits);
}
SIMD_INLINE ivec ivec_truncate(vec a)
{
    return _mm256_cvttps_epi32(a);
}
SIMD_INLINE ivec ivec_decrement_where(vec_mask m, ivec a)
{
    return _mm256_add_epi32(a, _mm256_castps_si256(m));
}
SIMD_INLINE ivec ivec_with_sign(ivec a, vec sign)
{
    return _mm256_sign_epi32(a, ivec_of_bits(sign));
}
SIMD_INLINE ivec ivec_high_scale(ivec a, ivec base, uint16_t factor)
{
    a = _mm256_subs_epu16(a, base);
    a = _mm256_mulhi_epu16(a, _mm256_set1_epi32((int)((uint32_t)factor << 16)));
    return _mm256_srli_epi32(a, 16);
}
SIMD_INLINE vec vec_sign_of(vec a)
{
    return _mm256_and_ps(a, _mm256_set1_ps(-0.0f));
}
SIMD_INLINE vec vec_xor(vec a, vec b)
{
    return _mm256_xor_ps(a, b);
}
SIMD_INLINE vec_table vec_table_scaled(const float *values, float factor)
{
    return _mm256_mul_ps(_mm256_loadu_ps(values), _mm256_set1_ps(factor));
}
SIMD_INLINE vec vec_table_at(const vec_table *t, ivec index)
{
    /* From a register: with the table in memory the instruction takes twice as long on Zen 3. */
    __m256 table = *t;
    __asm__("" : "+x"(table));
    return _mm256_permutevar8x32_ps(table, index);
}
SIMD_INLINE vec vec_bytes_above_2_23(const uint8_t *p)
{
    long long eight;
    memcpy(&eight, p, sizeof eight);
    const __m256i spread =
        _mm256_setr_epi8(0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3, -1, -1, -1, 4, -1, -1, -1,
                         5, -1, -1, -1, 6, -1, -1, -1, 7, -1, -1, -1);
    __m256i wide = _mm256_shuffle_epi8(_mm256_set1_epi64x(eight), spread);
    return _mm256_castsi256_ps(_mm256_or_si256(wide, _mm256_set1_epi32(0x4b000000)));
}
SIMD_INLINE void ivec_store_bytes(uint8_t *p, const ivec *a, int16_t offset)
{
    __m256i add = _mm256_set1_epi16(offset);
    __m256i low = _mm256_add_epi16(_mm256_packs_epi32(a[0], a[1]), add);
    __m256i high = _mm256_add_epi16(_mm256_packs_epi32(a[2], a[3]), add);
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
    _mm256_storeu_si256((__m256i *)(void *)p, bytes);
}
SIMD_INLINE float vec_largest(vec a)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
SIMD_INLINE vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}
SIMD_INLINE vec vec_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

#else

typedef int32_t ivec;
typedef struct vec_table {
    const float *values;
    float factor;
} vec_table;

SIMD_INLINE ivec ivec_of_bits(vec a)
{
    return (int32_t)bits_of_float(a);
}
SIMD_INLINE vec vec_of_bits(ivec a)
{
    return float_of_bits((uint32_t)a);
}
SIMD_INLINE ivec ivec_add(ivec a, ivec b)
{
    return (int32_t)((uint32_t)a + (uint32_t)b);
}
SIMD_INLINE ivec ivec_left(ivec a, int bits)
{
    return (int32_t)((uint32_t)a << bits);
}
SIMD_INLINE ivec ivec_right(ivec a, int bits)
{
    return (int32_t)((uint32_t)a >> bits);
}
/* Out of range: INT32_MIN, as the processors' instruction. */
SIMD_INLINE ivec ivec_truncate(vec a)
{
    return a >= -0x1p31f && a < 0x1p31f ? (int32_t)a : INT32_MIN;
}
SIMD_INLINE ivec ivec_decrement_where(vec_mask m, ivec a)
{
    return m ? ivec_add(a, -1) : a;
}
SIMD_INLINE ivec ivec_with_sign(ivec a, vec sign)
{
    return signbit(sign) ? (int32_t)(0 - (uint32_t)a) : a;
}
SIMD_INLINE ivec ivec_high_scale(ivec a, ivec base, uint16_t factor)
{
    uint32_t high = (uint32_t)a >> 16, low = (uint32_t)base >> 16;
    high = high > low ? high - low : 0;
    return (int32_t)(high * factor >> 16);
}
SIMD_INLINE vec vec_sign_of(vec a)
{
    return float_of_bits(bits_of_float(a) & 0x80000000u);
}
SIMD_INLINE vec vec_xor(vec a, vec b)
{
    return float_of_bits(bits_of_float(a) ^ bits_of_float(b));
}
SIMD_INLINE vec_table vec_table_scaled(const float *values, float factor)
{
    return (vec_table){values, factor};
}
SIMD_INLINE vec vec_table_at(const vec_table *t, ivec index)
{
    return t->values[index & (TABLE - 1)] * t->factor;
}
SIMD_INLINE vec vec_bytes_above_2_23(const uint8_t *p)
{
    return 0x1p23f + (float)*p;
}
SIMD_INLINE void ivec_store_bytes(uint8_t *p, const ivec *a, int16_t offset)
{
    for (int i = 0; i < 4; i++) {
        int32_t word = a[i] < INT16_MIN ? INT16_MIN : a[i] > INT16_MAX ? INT16_MAX : a[i];
        word += offset;
        p[i] = (uint8_t)(word < 0 ? 0 : word > 255 ? 255 : word);
    }
}
SIMD_INLINE float vec_largest(vec a)
{
    return a;
}
SIMD_INLINE vec vec_max(vec a, vec b)
{
    return a > b ? a : b;
}
SIMD_INLINE vec vec_min(vec a, vec b)
{
    return a < b ? a : b;
}

#endif

/* 1, -1, 0, or NaN. */
SIMD_INLINE vec vec_sign(vec a)
{
    vec zero = vec_all(0);
    return vec_select(vec_less(zero, a), vec_all(1), vec_select(vec_less(a, zero), vec_all(-1), a));
}

/* Lanes' numbers from `first` on. */
SIMD_INLINE ivec ivec_count(uint32_t first)
{
#if SIMD_LEVEL == SIMD_AVX512
    return _mm512_add_epi32(
        _mm512_set1_epi32((int)first),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
#elif SIMD_LEVEL == SIMD_AVX2
    return _mm256_add_epi32(_mm256_set1_epi32((int)first),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
#else
    return (int32_t)first;
#endif
}

SIMD_INLINE ivec ivec_all(uint32_t a)
{
#if SIMD_LEVEL == SIMD_AVX512
    return _mm512_set1_epi32((int)a);
#elif SIMD_LEVEL == SIMD_AVX2
    return _mm256_set1_epi32((int)a);
#else
    return (int32_t)a;
#endif
}

SIMD_INLINE ivec ivec_xor(ivec a, ivec b)
{
#if SIMD_LEVEL == SIMD_AVX512
    return _mm512_xor_si512(a, b);
#elif SIMD_LEVEL == SIMD_AVX2
    return _mm256_xor_si256(a, b);
#else
    return a ^ b;
#endif
}

/* The lower 32 bits of the product. */
SIMD_INLINE ivec ivec_mul(ivec a, ivec b)
{
#if SIMD_LEVEL == SIMD_AVX512
    return _mm512_mullo_epi32(a, b);
#elif SIMD_LEVEL == SIMD_AVX2
    return _mm256_mullo_epi32(a, b);
#else
    return (int32_t)((uint32_t)a * (uint32_t)b);
#endif
}

/* 32 random bits a lane from its number and a key: rounds of multiply and xor-shift whose bias is
 * the least that is known for their number (Wellons' hash prospector: 16 21f0aaad 15 d35a2d97 15).
 */
SIMD_INLINE ivec ivec_random(uint32_t first, uint32_t key)
{
    ivec x = ivec_xor(ivec_count(first), ivec_all(key));
    x = ivec_mul(ivec_xor(x, ivec_right(x, 16)), ivec_all(0x21f0aaadu));
    x = ivec_mul(ivec_xor(x, ivec_right(x, 15)), ivec_all(0xd35a2d97u));
    return ivec_xor(x, ivec_right(x, 15));
}

/* vec_store as bfloat16, rounded up or down at random: up as often as `a` is near the upper. What
 * is not finite stays what it is. The lanes are numbers `number` and on. */
SIMD_INLINE void vec_store_bf16_random(void *base, size_t i, size_t n, vec a, uint32_t number,
                                       uint32_t key)
{
    /* |a - a| < 1 is false for Inf and NaN */
    vec_mask finite = vec_less(vec_sub(a, a), vec_all(1));
    ivec moved = ivec_add(ivec_of_bits(a), ivec_right(ivec_random(number, key), 16));
    vec rounded = vec_of_bits(ivec_left(ivec_right(moved, 16), 16));
    vec_store(base, ZDS_BF16, i, n, vec_select(finite, rounded, a), false);
}

#endif
