/* Numbers as integers of few bits. Plain loops over blocks, which the compiler vectorises. */
#include "host/quantise.h"

#include <string.h>

#include "host/clones.h"
#include "host/kernels.h"

enum { MOST = 2048 /* elements of a block */, NOT_FINITE = 0x7f800000 };

/* As the bits of an fp32, of which those of NaN and infinity are the largest. */
CLONES static uint32_t largest(const float *restrict x, size_t count)
{
    uint32_t most = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most;
}

static inline int32_t nearest(float x, float top)
{
    x = x < -top ? -top : x > top ? top : x; /* rounding may go a little beyond */
    return (int32_t)(x < 0 ? x - 0.5f : x + 0.5f);
}

CLONES static void narrow_8(int8_t *restrict to, const float *restrict x, float inverse,
                            size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (int8_t)nearest(x[i] * inverse, 127);
}

CLONES static void narrow_4(uint8_t *restrict to, const float *restrict x, float inverse,
                            size_t count)
{
    const size_t half = (count + 1) / 2;
    for (size_t i = 0; i < count - half; i++)
        to[i] = (uint8_t)((nearest(x[i] * inverse, 7) & 15) |
                          (nearest(x[i + half] * inverse, 7) & 15) << 4);
    if (count % 2)
        to[half - 1] = (uint8_t)(nearest(x[half - 1] * inverse, 7) & 15);
}

CLONES static void widen_8(float *restrict to, const int8_t *restrict from, float scale,
                           size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (float)from[i] * scale;
}

static inline float whole_of_4(uint32_t bits)
{
    return (float)((int32_t)((bits & 15) ^ 8) - 8);
}

CLONES static void widen_4(float *restrict to, const uint8_t *restrict from, float scale,
                           size_t count)
{
    const size_t half = (count + 1) / 2;
    for (size_t i = 0; i < half; i++)
        to[i] = whole_of_4(from[i]) * scale;
    for (size_t i = 0; i < count - half; i++)
        to[half + i] = whole_of_4((uint32_t)from[i] >> 4) * scale;
}

CLONES static void add_to(float *restrict sum, const float *restrict x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        sum[i] += x[i];
}

/* Where a block's integers are, and its scale. */
typedef struct block_place {
    uint64_t integers, scale; /* bytes of the run */
    size_t count;
} block_place;

static block_place place_of(quantised_bits bits, uint64_t all, uint64_t first, uint64_t left)
{
    const uint64_t block = quantised_block(bits), scales = ((all * bits + 7) / 8 + 3) / 4 * 4;
    return (block_place){.integers = first * bits / 8,
                         .scale = scales + first / block * sizeof(float),
                         .count = (size_t)(left < block ? left : block)};
}

static float scale_of(uint32_t most, float top, float *inverse)
{
    float x;
    *inverse = 0;
    memcpy(&x, &most, sizeof x);
    if (most >= NOT_FINITE)
        return x - x; /* NaN */
    if (x < top * 0x1p-126f)
        return 0;
    *inverse = top / x;
    return x / top;
}

void quantise(void *run, quantised_bits bits, uint64_t all, uint64_t first, uint64_t count,
              const void *from, zds_dtype dtype)
{
    float x[MOST], inverse;
    const char *in = from;
    char *out = run;
    for (uint64_t i = 0; i < count; i += quantised_block(bits)) {
        const block_place at = place_of(bits, all, first + i, count - i);
        kernel_convert(x, ZDS_F32, in + i * zds_dtype_size(dtype), dtype, at.count);
        const float scale = scale_of(largest(x, at.count), bits == QUANTISED_8 ? 127 : 7, &inverse);
        memcpy(out + at.scale, &scale, sizeof scale);
        if (inverse == 0)
            memset(out + at.integers, 0, (at.count * bits + 7) / 8);
        else if (bits == QUANTISED_8)
            narrow_8((int8_t *)out + at.integers, x, inverse, at.count);
        else
            narrow_4((uint8_t *)out + at.integers, x, inverse, at.count);
    }
}

/* One block, times `pre`. */
static void widen(float *to, const char *run, quantised_bits bits, const block_place *at, float pre)
{
    float scale;
    memcpy(&scale, run + at->scale, sizeof scale);
    scale *= pre;
    if (bits == QUANTISED_8)
        widen_8(to, (const int8_t *)run + at->integers, scale, at->count);
    else
        widen_4(to, (const uint8_t *)run + at->integers, scale, at->count);
}

void dequantise(void *to, zds_dtype dtype, const void *run, quantised_bits bits, uint64_t all,
                uint64_t first, uint64_t count)
{
    float x[MOST];
    char *out = to;
    for (uint64_t i = 0; i < count; i += quantised_block(bits)) {
        const block_place at = place_of(bits, all, first + i, count - i);
        widen(x, run, bits, &at, 1);
        kernel_convert(out + i * zds_dtype_size(dtype), dtype, x, ZDS_F32, at.count);
    }
}

/* One block of all runs. */
static void widen_sum(float *sum, const char *runs, quantised_bits bits, const block_place *at,
                      const quantised_sum *how)
{
    float x[MOST];
    widen(sum, runs, bits, at, (float)how->pre);
    for (uint32_t r = 1; r < how->runs; r++) {
        widen(x, runs + r * how->stride, bits, at, (float)how->pre);
        add_to(sum, x, at->count);
    }
}

void dequantise_sum(void *to, zds_dtype dtype, const void *runs, quantised_bits bits, uint64_t all,
                    uint64_t first, uint64_t count, const quantised_sum *how)
{
    float sum[MOST];
    char *out = to;
    for (uint64_t i = 0; i < count; i += quantised_block(bits)) {
        const block_place at = place_of(bits, all, first + i, count - i);
        widen_sum(sum, runs, bits, &at, how);
        kernel_accumulate(out + i * zds_dtype_size(dtype), dtype, sum, ZDS_F32, how->post, how->add,
                          at.count);
    }
}

void quantise_sum(void *run, const void *runs, quantised_bits bits, uint64_t all, uint64_t first,
                  uint64_t count, const quantised_sum *how)
{
    float sum[MOST];
    for (uint64_t i = 0; i < count; i += quantised_block(bits)) {
        const block_place at = place_of(bits, all, first + i, count - i);
        widen_sum(sum, runs, bits, &at, how);
        quantise(run, bits, all, first + i, at.count, sum, ZDS_F32);
    }
}
