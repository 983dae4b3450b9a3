/* The kernels of a reduction for one kind of processor, included by reduce_<level>.c. Sums are
 * plain loops that the compiler turns into the processor's vectors; without contraction their bits
 * are the same at every level. */
#include "common/reduce.h"
#include "common/simd.h"

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

static void widen(float *out, const uint16_t *in, size_t n, zds_dtype dtype)
{
    size_t i = 0;
    if (dtype == ZDS_BF16)
        for (; i + LANES <= n; i += LANES)
            store_f32(out + i, load_bf16(in + i));
    else
        for (; i + LANES <= n; i += LANES)
            store_f32(out + i, load_f16(in + i));
    if (i < n)
        vec_store(out, ZDS_F32, i, n - i, vec_load(in, dtype, i, n - i), false);
}

static void narrow(uint16_t *out, const float *in, size_t n, zds_dtype dtype)
{
    size_t i = 0;
    if (dtype == ZDS_BF16)
        for (; i + LANES <= n; i += LANES)
            store_bf16(out + i, load_f32(in + i), false);
    else
        for (; i + LANES <= n; i += LANES)
            store_f16(out + i, load_f32(in + i), false);
    if (i < n)
        vec_store(out, dtype, i, n - i, vec_load(in, ZDS_F32, i, n - i), false);
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
            bad[j] += (bits_of_float(x[i + j]) & 0x7f800000u) == 0x7f800000u;
        }
    for (size_t j = 0; i + j < n; j++) {
        double v = x[i + j];
        part[j] += v * v;
        bad[j] += (bits_of_float(x[i + j]) & 0x7f800000u) == 0x7f800000u;
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

static void stream(void *dst, const void *src, size_t bytes)
{
#if SIMD_LEVEL == SIMD_SCALAR
    memcpy(dst, src, bytes);
#else
    char *out = dst;
    const char *in = src;
    size_t head = (size_t)(-(uintptr_t)out & (sizeof(vec) - 1));
    head = head < bytes ? head : bytes;
    memcpy(out, in, head);
    size_t i = head;
    for (; i + sizeof(vec) <= bytes; i += sizeof(vec)) {
        const float *from = (const float *)(const void *)(in + i);
        float *to = (float *)(void *)(out + i);
#if SIMD_LEVEL == SIMD_AVX512
        _mm512_stream_ps(to, load_f32(from));
#else
        _mm256_stream_ps(to, load_f32(from));
#endif
    }
    memcpy(out + i, in + i, bytes - i);
#endif
}

static void stream_end(void)
{
    simd_stream_end();
}

const reduce_kernels SIMD_NAME(reduce) = {.sum = sum,
                                          .finish = finish,
                                          .widen = widen,
                                          .narrow = narrow,
                                          .squares = squares,
                                          .stream = stream,
                                          .stream_end = stream_end};
