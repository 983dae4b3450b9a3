/* Small integers as test data: exact in every element type, and so are their sums. */
#ifndef TESTS_UNIT_COMM_VALUES_H
#define TESTS_UNIT_COMM_VALUES_H

#include "comm_ranks.h"

static inline float bf16_to_float(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint16_t float_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (isnan(f))
        return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* From the definition of binary16, with the C library's scaling. */
static inline double f16_to_double(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double v = exponent == 31 ? (fraction ? NAN : INFINITY)
               : exponent     ? ldexp(1024 + fraction, exponent - 25)
                              : ldexp(fraction, -24);
    return h & 0x8000 ? -v : v;
}

static inline uint16_t double_to_f16(double v)
{
    uint16_t sign = signbit(v) ? 0x8000 : 0;
    double a = fabs(v);
    if (isnan(v))
        return 0x7e00;
    if (a == 0)
        return sign;
    if (a >= 65520)
        return sign | 0x7c00;
    int e;
    frexp(a, &e); /* a < 2^e */
    e = e < -13 ? -13 : e;
    double units = nearbyint(ldexp(a, 11 - e)); /* of 2^(e-11): at most 2048 */
    return (uint16_t)(sign | (((unsigned)(e + 13) << 10) + (unsigned)units));
}

static inline double get_value(const void *base, zds_dtype dtype, uint64_t i)
{
    switch (dtype) {
    case ZDS_F32:
        return ((const float *)base)[i];
    case ZDS_F16:
        return f16_to_double(((const uint16_t *)base)[i]);
    case ZDS_BF16:
        return bf16_to_float(((const uint16_t *)base)[i]);
    case ZDS_F64:
        return ((const double *)base)[i];
    case ZDS_I8:
        return ((const int8_t *)base)[i];
    case ZDS_U8:
        return ((const uint8_t *)base)[i];
    case ZDS_I32:
        return ((const int32_t *)base)[i];
    default:
        return (double)((const int64_t *)base)[i];
    }
}

static inline void set_value(void *base, zds_dtype dtype, uint64_t i, double v)
{
    switch (dtype) {
    case ZDS_F32:
        ((float *)base)[i] = (float)v;
        break;
    case ZDS_F16:
        ((uint16_t *)base)[i] = double_to_f16(v);
        break;
    case ZDS_BF16:
        ((uint16_t *)base)[i] = float_to_bf16((float)v);
        break;
    case ZDS_F64:
        ((double *)base)[i] = v;
        break;
    case ZDS_I8:
        ((int8_t *)base)[i] = (int8_t)v;
        break;
    case ZDS_U8:
        ((uint8_t *)base)[i] = (uint8_t)v;
        break;
    case ZDS_I32:
        ((int32_t *)base)[i] = (int32_t)v;
        break;
    default:
        ((int64_t *)base)[i] = (int64_t)v;
    }
}

static inline double value_of(int32_t r, uint64_t i, zds_dtype dtype)
{
    double v = (double)((i * 7 + (uint64_t)r * 13) % 31);
    return dtype == ZDS_U8 ? v : v - 15;
}

static inline void fill(void *base, zds_dtype dtype, uint64_t count, int32_t r, uint64_t first)
{
    for (uint64_t i = 0; i < count; i++)
        set_value(base, dtype, i, value_of(r, first + i, dtype));
}

/* What an element is after a reduction over `size` ranks, rounded to the type. */
static inline double reduced(int32_t size, int32_t op, zds_dtype dtype, uint64_t i)
{
    double sum = 0, best = -INFINITY;
    for (int32_t r = 0; r < size; r++) {
        double v = value_of(r, i, dtype);
        sum += v;
        best = v > best ? v : best;
    }
    if (op == ZDS_MAX)
        return best;
    if (op == ZDS_SUM)
        return sum;
    switch (dtype) {
    case ZDS_F64:
        return sum / size;
    case ZDS_F32:
        return (float)sum * (float)(1.0 / size);
    case ZDS_BF16:
        return bf16_to_float(float_to_bf16((float)sum * (float)(1.0 / size)));
    case ZDS_F16:
        return f16_to_double(double_to_f16((float)sum * (float)(1.0 / size)));
    default:
        return trunc(sum / size);
    }
}

#endif
