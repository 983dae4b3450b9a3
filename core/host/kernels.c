/* The passes over gradients and parameters that the core makes itself. Plain loops, compiled for
 * several processors; the compiler vectorises them, and none is on the path of a fused step. */
#include "host/kernels.h"

#include <string.h>

#include "host/clones.h"

enum { BATCH = 1024 };

static inline float bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint16_t bf16_of(float value)
{
    uint32_t bits = float_bits(value);
    uint32_t nan = (bits & 0x7fffffffu) > 0x7f800000u;
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)(nan ? (bits >> 16) | 0x40u : rounded);
}

static inline float f16_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu;
    if (rest >= 0x7c00u)
        return bits_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    float magnitude =
        bits_float(rest << 13) * bits_float(0x77800000u); /* 2^112: also makes subnormals right */
    return bits_float(sign | float_bits(magnitude));
}

static inline uint16_t f16_of(float value)
{
    uint32_t bits = float_bits(value), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (bits >> 13 & 0x3ffu));
    if (bits >= 0x47800000u) /* 65536 and above */
        return (uint16_t)(sign | 0x7c00u);
    if (bits < 0x38800000u) /* below 2^-14: adding 0.5 puts the 2^-24 place at the last bit */
        return (uint16_t)(sign | (float_bits(bits_float(bits) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | ((bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13));
}

/* The nearest whole number in a range; 0 for NaN. */
static inline int32_t whole_of(float value, float low, float high)
{
    value = value == value ? value : 0;
    value = value < low ? low : value > high ? high : value;
    return (int32_t)(value < 0 ? value - 0.5f : value + 0.5f);
}

CLONES static void load(float *restrict to, const void *from, zds_dtype dtype, size_t count)
{
    if (dtype == ZDS_BF16) {
        const uint16_t *restrict in = from;
        for (size_t i = 0; i < count; i++)
            to[i] = bits_float((uint32_t)in[i] << 16);
    } else if (dtype == ZDS_F16) {
        const uint16_t *restrict in = from;
        for (size_t i = 0; i < count; i++)
            to[i] = f16_float(in[i]);
    } else if (dtype == ZDS_I8) {
        const int8_t *restrict in = from;
        for (size_t i = 0; i < count; i++)
            to[i] = in[i];
    } else if (dtype == ZDS_U8) {
        const uint8_t *restrict in = from;
        for (size_t i = 0; i < count; i++)
            to[i] = in[i];
    } else {
        memcpy(to, from, count * sizeof *to);
    }
}

CLONES static void store(void *to, zds_dtype dtype, const float *restrict from, size_t count)
{
    if (dtype == ZDS_BF16) {
        uint16_t *restrict out = to;
        for (size_t i = 0; i < count; i++)
            out[i] = bf16_of(from[i]);
    } else if (dtype == ZDS_F16) {
        uint16_t *restrict out = to;
        for (size_t i = 0; i < count; i++)
            out[i] = f16_of(from[i]);
    } else if (dtype == ZDS_I8) {
        int8_t *restrict out = to;
        for (size_t i = 0; i < count; i++)
            out[i] = (int8_t)whole_of(from[i], -128, 127);
    } else if (dtype == ZDS_U8) {
        uint8_t *restrict out = to;
        for (size_t i = 0; i < count; i++)
            out[i] = (uint8_t)whole_of(from[i], 0, 255);
    } else {
        memcpy(to, from, count * sizeof *from);
    }
}

CLONES static void axpy(float *restrict to, const float *restrict from, float scale, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] += scale * from[i];
}

CLONES static void multiply(float *restrict to, const float *restrict from, float scale,
                            size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = scale * from[i];
}

static const void *in_at(const void *base, zds_dtype dtype, uint64_t i)
{
    return (const char *)base + i * zds_dtype_size(dtype);
}

void kernel_convert(void *to, zds_dtype to_dtype, const void *from, zds_dtype from_dtype,
                    uint64_t count)
{
    float batch[BATCH];
    for (uint64_t i = 0; i < count; i += BATCH) {
        size_t n = count - i < BATCH ? (size_t)(count - i) : BATCH;
        load(batch, in_at(from, from_dtype, i), from_dtype, n);
        store((char *)to + i * zds_dtype_size(to_dtype), to_dtype, batch, n);
    }
}

void kernel_accumulate(void *to, zds_dtype to_dtype, const void *from, zds_dtype from_dtype,
                       double scale, bool accumulate, uint64_t count)
{
    float in[BATCH], sum[BATCH];
    for (uint64_t i = 0; i < count; i += BATCH) {
        size_t n = count - i < BATCH ? (size_t)(count - i) : BATCH;
        void *out = (char *)to + i * zds_dtype_size(to_dtype);
        load(in, in_at(from, from_dtype, i), from_dtype, n);
        if (accumulate) {
            load(sum, out, to_dtype, n);
            axpy(sum, in, (float)scale, n);
        } else {
            multiply(sum, in, (float)scale, n);
        }
        store(out, to_dtype, sum, n);
    }
}

CLONES static double sum_squares(const float *restrict in, size_t count, uint64_t *non_finite)
{
    double part[16] = {0};
    uint32_t bad[16] = {0};
    size_t whole = count & ~(size_t)15;
    for (size_t i = 0; i < whole; i += 16)
        for (size_t k = 0; k < 16; k++) {
            float x = in[i + k];
            part[k] += (double)x * (double)x;
            bad[k] += (float_bits(x) & 0x7f800000u) == 0x7f800000u;
        }
    for (size_t k = 0; k < count - whole; k++) {
        float x = in[whole + k];
        part[k] += (double)x * (double)x;
        bad[k] += (float_bits(x) & 0x7f800000u) == 0x7f800000u;
    }
    for (size_t half = 8; half; half /= 2)
        for (size_t k = 0; k < half; k++) {
            part[k] += part[k + half];
            bad[k] += bad[k + half];
        }
    *non_finite += bad[0];
    return part[0];
}

double kernel_chunk_sum(const void *from, zds_dtype dtype, uint64_t count, uint64_t *non_finite)
{
    float batch[BATCH];
    load(batch, from, dtype, (size_t)count);
    return sum_squares(batch, (size_t)count, non_finite);
}

uint64_t kernel_chunk_sums(const void *from, zds_dtype dtype, const zds_segment *segments,
                           size_t segment_count, double *sums)
{
    uint64_t bad = 0;
    for (size_t s = 0; s < segment_count; s++)
        for (uint64_t i = 0; i < segments[s].count; i += BATCH) {
            uint64_t left = segments[s].count - i;
            *sums++ = kernel_chunk_sum(in_at(from, dtype, segments[s].first + i), dtype,
                                       left < BATCH ? left : BATCH, &bad);
        }
    return bad;
}

void kernel_fill(void *to, zds_dtype dtype, double value, uint64_t count)
{
    const size_t size = zds_dtype_size(dtype);
    unsigned char element[8] = {0};
    const float narrow = (float)value;
    const int64_t whole = dtype == ZDS_I32 || dtype == ZDS_I64 ? (int64_t)value : 0;
    const int32_t short_whole = (int32_t)whole;
    if (dtype == ZDS_F64)
        memcpy(element, &value, sizeof value);
    else if (dtype == ZDS_I64)
        memcpy(element, &whole, sizeof whole);
    else if (dtype == ZDS_I32)
        memcpy(element, &short_whole, sizeof short_whole);
    else
        store(element, dtype, &narrow, 1);
    bool alike = true; /* all its bytes: what memset can do */
    for (size_t i = 1; i < size; i++)
        alike = alike && element[i] == element[0];
    char *out = to;
    if (alike && count)
        memset(out, element[0], count * size);
    for (uint64_t i = 0; i < count && !alike; i++, out += size)
        memcpy(out, element, size);
}
