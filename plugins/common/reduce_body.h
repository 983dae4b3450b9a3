/* The body of a set of reduction kernels. Included by reduce_<set>.c, which defines SET (the name)
 * and, where the set has them, widen_f16, narrow_f16 and stream on whole vectors. Plain loops: the
 * compiler turns them into the set's instructions, and no contraction keeps their bits the same. */
#include <math.h>
#include <string.h>

#include "common/reduce.h"

static void sum(float *acc, const float *a, const float *b, size_t n, float scale, bool add)
{
    if (add && b) {
        for (size_t i = 0; i < n; i++)
            acc[i] = (acc[i] + scale * a[i]) + scale * b[i];
    } else if (add) {
        for (size_t i = 0; i < n; i++)
            acc[i] = acc[i] + scale * a[i];
    } else if (b) {
        for (size_t i = 0; i < n; i++)
            acc[i] = scale * a[i] + scale * b[i];
    } else {
        for (size_t i = 0; i < n; i++)
            acc[i] = scale * a[i];
    }
}

static void finish(float *acc, const float *base, size_t n, float scale)
{
    if (base) {
        for (size_t i = 0; i < n; i++)
            acc[i] = base[i] + scale * acc[i];
    } else {
        for (size_t i = 0; i < n; i++)
            acc[i] = scale * acc[i];
    }
}

static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void widen_bf16(float *restrict out, const uint16_t *restrict in, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = of_bits((uint32_t)in[i] << 16);
}

static void narrow_bf16(uint16_t *restrict out, const float *restrict in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = bits_of(in[i]);
        uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        uint32_t nan =
            (bits >> 16) | 0x40u; /* quiet, so that it stays a NaN without its low bits */
        out[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
    }
}

static inline float f16_value(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u;
    uint32_t fraction = h & 0x3ffu;
    if (exponent == 31)
        return of_bits(sign | 0x7f800000u | (fraction ? 0x400000u | fraction << 13 : 0));
    if (exponent == 0) /* zero or subnormal: fraction * 2^-24, exact in fp32 */
        return of_bits(sign | bits_of((float)fraction * 0x1p-24f));
    return of_bits(sign | (exponent + 112u) << 23 | fraction << 13);
}

static inline uint16_t f16_bits(float x)
{
    uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* rounds to at least 2^16 */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) /* subnormal: adding 0.5 leaves it, rounded, in the low bits */
        return (uint16_t)(sign | (bits_of(of_bits(magnitude) + 0.5f) - 0x3f000000u));
    uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | rounded >> 13);
}

static void widen(float *out, const uint16_t *in, size_t n, zds_dtype dtype)
{
    if (dtype == ZDS_BF16) {
        widen_bf16(out, in, n);
        return;
    }
    size_t i = 0;
#ifdef VECTOR_F16
    for (; i + VECTOR_F16 <= n; i += VECTOR_F16)
        widen_f16(out + i, in + i);
#endif
    for (; i < n; i++)
        out[i] = f16_value(in[i]);
}

static void narrow(uint16_t *out, const float *in, size_t n, zds_dtype dtype)
{
    if (dtype == ZDS_BF16) {
        narrow_bf16(out, in, n);
        return;
    }
    size_t i = 0;
#ifdef VECTOR_F16
    for (; i + VECTOR_F16 <= n; i += VECTOR_F16)
        narrow_f16(out + i, in + i);
#endif
    for (; i < n; i++)
        out[i] = f16_bits(in[i]);
}

static double squares(const float *x, size_t n, uint64_t *non_finite)
{
    double part[16] = {0};
    uint32_t bad[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 16; j++) {
            double v = x[i + j];
            part[j] += v * v;
            bad[j] += (bits_of(x[i + j]) & 0x7f800000u) == 0x7f800000u;
        }
    for (size_t j = 0; i + j < n; j++) {
        double v = x[i + j];
        part[j] += v * v;
        bad[j] += (bits_of(x[i + j]) & 0x7f800000u) == 0x7f800000u;
    }
    uint64_t count = 0;
    for (size_t j = 0; j < 16; j++)
        count += bad[j];
    *non_finite += count;
    for (size_t half = 8; half; half /= 2)
        for (size_t j = 0; j < half; j++)
            part[j] += part[j + half];
    return part[0];
}

#ifndef VECTOR_STREAM
static void stream(void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
}

static void stream_end(void)
{
}
#else
static void stream(void *dst, const void *src, size_t bytes)
{
    char *out = dst;
    const char *in = src;
    size_t head = (size_t)(-(uintptr_t)out & (VECTOR_STREAM - 1));
    head = head < bytes ? head : bytes;
    memcpy(out, in, head);
    size_t i = head;
    for (; i + VECTOR_STREAM <= bytes; i += VECTOR_STREAM)
        stream_vector(out + i, in + i);
    memcpy(out + i, in + i, bytes - i);
}
#endif

const reduce_kernels SET = {.name = SET_NAME,
                            .sum = sum,
                            .finish = finish,
                            .widen = widen,
                            .narrow = narrow,
                            .squares = squares,
                            .stream = stream,
                            .stream_end = stream_end};
