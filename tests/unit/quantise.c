/* Integers of few bits against the formula: blocks, scales, bytes, sums; odd sizes, and numbers
 * that are none. */
#include "host/quantise.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../apps/common/floats.h"

enum { MOST = 10000 };
static const quantised_bits widths[] = {QUANTISED_8, QUANTISED_4};
static const uint64_t sizes[] = {0,   1,   2,    3,    15,   16,   127, 128,
                                 129, 256, 2047, 2048, 2049, 4096, 9999};

static uint64_t block_of(quantised_bits bits)
{
    return bits == 8 ? 2048 : 128;
}

static float number(uint64_t i)
{
    uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ULL;
    x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9ULL;
    const uint64_t larger = 1 + i / 300;
    return ((float)(x >> 40) / (float)(1 << 24) - 0.5f) * (float)larger;
}

/* What comes out of a block for x, whose largest magnitude is `most`. */
static float formula(float x, float most, float top)
{
    return most > 0 ? (float)copysign(floor(fabs((double)(x * (top / most))) + 0.5), (double)x) *
                          (most / top)
                    : 0;
}

static float most_of(const float *x, uint64_t block, uint64_t all, uint64_t i)
{
    float most = 0;
    const uint64_t first = i / block * block;
    for (uint64_t k = first; k < all && k < first + block; k++)
        most = fmaxf(most, fabsf(x[k]));
    return most;
}

Test(quantise, comes_out_as_the_formula_says)
{
    static float x[MOST], out[MOST];
    for (uint64_t i = 0; i < MOST; i++)
        x[i] = number(i);
    for (size_t w = 0; w < 2; w++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            const uint64_t all = sizes[s], block = block_of(widths[w]);
            const float top = widths[w] == 8 ? 127 : 7;
            const uint64_t integers = widths[w] == 8 ? all : (all + 1) / 2;
            const uint64_t bytes = (integers + 3) / 4 * 4 + 4 * ((all + block - 1) / block);
            cr_assert_eq(quantised_bytes(widths[w], all), bytes);
            char *run = malloc(bytes + 1);
            run[bytes] = 0x55;
            quantise(run, widths[w], all, 0, all, x, ZDS_F32);
            cr_expect_eq(run[bytes], 0x55, "%llu elements", (unsigned long long)all);
            out[all] = 0.25f;
            dequantise(out, ZDS_F32, run, widths[w], all, 0, all);
            cr_expect_eq(out[all], 0.25f);
            for (uint64_t i = 0; i < all; i++) {
                float most = most_of(x, block, all, i);
                cr_assert_eq(out[i], formula(x[i], most, top), "%d bits, %llu of %llu",
                             (int)widths[w], (unsigned long long)i, (unsigned long long)all);
                cr_assert_leq(fabsf(out[i] - x[i]), most / top * 0.50001f);
            }
            free(run);
        }
}

/* In several calls, as threads make them, the same bytes and numbers. */
Test(quantise, does_not_depend_on_how_a_run_is_shared)
{
    static float x[MOST], out[MOST], whole[MOST];
    static char run[2 * MOST], shared[2 * MOST];
    for (uint64_t i = 0; i < MOST; i++)
        x[i] = number(i);
    for (size_t w = 0; w < 2; w++) {
        const uint64_t block = block_of(widths[w]);
        quantise(run, widths[w], 9999, 0, 9999, x, ZDS_F32);
        dequantise(whole, ZDS_F32, run, widths[w], 9999, 0, 9999);
        for (uint64_t i = 0; i < 9999; i += 2 * block) {
            uint64_t n = 9999 - i < 2 * block ? 9999 - i : 2 * block;
            quantise(shared, widths[w], 9999, i, n, x + i, ZDS_F32);
            dequantise(out + i, ZDS_F32, run, widths[w], 9999, i, n);
        }
        cr_expect_arr_eq(run, shared, quantised_bytes(widths[w], 9999));
        cr_expect_arr_eq(out, whole, 9999 * sizeof *out);
    }
}

Test(quantise, of_16_bits)
{
    enum { N = 700 };
    static float x[N], wide[N];
    static uint16_t half[N], out[N];
    char run[2 * N];
    for (size_t w = 0; w < 2; w++)
        for (int f16 = 0; f16 < 2; f16++) {
            const zds_dtype dtype = f16 ? ZDS_F16 : ZDS_BF16;
            for (uint64_t i = 0; i < N; i++) {
                half[i] = f16 ? f16_from_float(number(i)) : bf16_from_float(number(i));
                x[i] = f16 ? float_from_f16(half[i]) : float_from_bf16(half[i]);
            }
            quantise(run, widths[w], N, 0, N, x, ZDS_F32);
            dequantise(wide, ZDS_F32, run, widths[w], N, 0, N);
            quantise(run, widths[w], N, 0, N, half, dtype);
            dequantise(out, dtype, run, widths[w], N, 0, N);
            for (uint64_t i = 0; i < N; i++)
                cr_assert_eq(out[i], f16 ? f16_from_float(wide[i]) : bf16_from_float(wide[i]));
        }
}

/* Zeros, numbers that a scale cannot hold, one that is huge, and those that are none. */
Test(quantise, at_the_edges)
{
    enum { N = 5000 };
    static float x[N], out[N];
    static char run[2 * N];
    for (size_t w = 0; w < 2; w++) {
        const float top = widths[w] == 8 ? 127 : 7, most[] = {0, 1e-40f, 1e-36f, 3e38f};
        for (size_t k = 0; k < 4; k++) {
            for (uint64_t i = 0; i < N; i++)
                x[i] = i % 2 ? most[k] : -most[k];
            quantise(run, widths[w], N, 0, N, x, ZDS_F32);
            dequantise(out, ZDS_F32, run, widths[w], N, 0, N);
            for (uint64_t i = 0; i < N; i++)
                cr_assert(isfinite(out[i]) &&
                              fabsf(out[i] - x[i]) <= top * 0x1p-126f + 1e-6f * most[k],
                          "%g as %g", (double)x[i], (double)out[i]);
        }
        memset(x, 0, sizeof x);
        x[1] = 3.4e38f;
        x[2] = 1;
        quantise(run, widths[w], N, 0, N, x, ZDS_F32);
        dequantise(out, ZDS_F32, run, widths[w], N, 0, N);
        cr_expect(out[0] == 0 && fabsf(out[1] / x[1] - 1) < 1e-6f && out[2] == 0);
        const float none[] = {NAN, -NAN, INFINITY, -INFINITY};
        for (size_t k = 0; k < 4; k++) {
            const uint64_t block = block_of(widths[w]), bad = 2 * block + 1;
            for (uint64_t i = 0; i < N; i++)
                x[i] = number(i);
            x[bad] = none[k];
            quantise(run, widths[w], N, 0, N, x, ZDS_F32);
            dequantise(out, ZDS_F32, run, widths[w], N, 0, N);
            for (uint64_t i = 0; i < N; i++)
                cr_assert_eq(isfinite(out[i]) != 0, i / block != 2, "%llu", (unsigned long long)i);
        }
    }
}

Test(quantise, sums_runs_in_order)
{
    enum { N = 777, RUNS = 3 };
    static float x[RUNS][N], one[RUNS][N], out[N], before[N];
    static char run[RUNS * 2 * N];
    for (size_t w = 0; w < 2; w++)
        for (int add = 0; add < 2; add++) {
            const uint64_t bytes = quantised_bytes(widths[w], N);
            const quantised_sum how = {RUNS, bytes, 0.5, 2.0 / 3, add};
            for (uint32_t r = 0; r < RUNS; r++) {
                for (uint64_t i = 0; i < N; i++)
                    x[r][i] = number(r * N + i);
                quantise(run + r * bytes, widths[w], N, 0, N, x[r], ZDS_F32);
                dequantise(one[r], ZDS_F32, run + r * bytes, widths[w], N, 0, N);
            }
            for (uint64_t i = 0; i < N; i++)
                out[i] = before[i] = number(7 * i);
            dequantise_sum(out, ZDS_F32, run, widths[w], N, 0, 512, &how);
            dequantise_sum(out + 512, ZDS_F32, run, widths[w], N, 512, N - 512, &how);
            for (uint64_t i = 0; i < N; i++) {
                float sum = 0.5f * one[0][i] + 0.5f * one[1][i];
                sum += 0.5f * one[2][i];
                float product = (float)(2.0 / 3) * sum;
                cr_assert_eq(out[i], add ? before[i] + product : product, "%llu",
                             (unsigned long long)i);
                before[i] = sum;
            }
            static char again[2 * N], wanted[2 * N];
            quantise(wanted, widths[w], N, 0, N, before, ZDS_F32);
            quantise_sum(again, run, widths[w], N, 0, N, &how);
            cr_expect_arr_eq(again, wanted, bytes);
        }
}
