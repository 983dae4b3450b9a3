/* Numbers of any float type, and repeatable random ones. */
#ifndef ZDS_PLUGIN_PROBE_NUMBERS_H
#define ZDS_PLUGIN_PROBE_NUMBERS_H

#include <stdbool.h>

#include "common/floats.h"
#include "zds/types.h"

static inline double number_read(const void *array, zds_dtype dtype, uint64_t i)
{
    switch (dtype) {
    case ZDS_F32:
        return (double)((const float *)array)[i];
    case ZDS_F16:
        return (double)float_from_f16(((const uint16_t *)array)[i]);
    case ZDS_BF16:
        return (double)float_from_bf16(((const uint16_t *)array)[i]);
    case ZDS_F64:
        return ((const double *)array)[i];
    case ZDS_I8:
        return (double)((const int8_t *)array)[i];
    case ZDS_U8:
        return (double)((const uint8_t *)array)[i];
    case ZDS_I32:
        return (double)((const int32_t *)array)[i];
    default:
        return (double)((const int64_t *)array)[i];
    }
}

/* Rounded to nearest even. */
static inline void number_write(void *array, zds_dtype dtype, uint64_t i, double value)
{
    switch (dtype) {
    case ZDS_F32:
        ((float *)array)[i] = (float)value;
        break;
    case ZDS_F16:
        ((uint16_t *)array)[i] = f16_from_float((float)value);
        break;
    case ZDS_BF16:
        ((uint16_t *)array)[i] = bf16_from_float((float)value);
        break;
    case ZDS_F64:
        ((double *)array)[i] = value;
        break;
    case ZDS_I8:
        ((int8_t *)array)[i] = (int8_t)value;
        break;
    case ZDS_U8:
        ((uint8_t *)array)[i] = (uint8_t)value;
        break;
    case ZDS_I32:
        ((int32_t *)array)[i] = (int32_t)value;
        break;
    default:
        ((int64_t *)array)[i] = (int64_t)value;
        break;
    }
}

static inline uint64_t number_hash(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* To the bit: 0 and -0 differ, a NaN is itself. */
static inline bool number_same(double a, double b)
{
    uint64_t x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    return x == y;
}

/* About normal, of variance 1, with 8 significant bits: exact in bf16, fp16 and fp32. */
static inline double number_random(uint64_t stream, uint64_t i)
{
    uint64_t bits = number_hash(number_hash(stream) ^ i);
    int64_t sum = 0; /* of four uniform ones */
    for (int k = 0; k < 4; k++)
        sum += (int64_t)(bits >> (16 * k) & 0xff) - 127;
    double value = (double)sum / 148; /* the deviation of the sum */
    return (double)float_from_bf16(bf16_from_float((float)value));
}

#endif
