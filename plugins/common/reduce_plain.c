/* Reductions of any element type. The floats that a fused reduction takes go there; the rest is
 * counters, flags and maxima, where plain loops are enough. */
#include <string.h>

#include "common/reduce.h"

static int64_t load_int(const void *base, zds_dtype dtype, uint64_t i)
{
    switch (dtype) {
    case ZDS_I8:
        return ((const int8_t *)base)[i];
    case ZDS_U8:
        return ((const uint8_t *)base)[i];
    case ZDS_I32:
        return ((const int32_t *)base)[i];
    default:
        return ((const int64_t *)base)[i];
    }
}

static void store_int(void *base, zds_dtype dtype, uint64_t i, int64_t value)
{
    switch (dtype) {
    case ZDS_I8:
        ((int8_t *)base)[i] = (int8_t)value;
        break;
    case ZDS_U8:
        ((uint8_t *)base)[i] = (uint8_t)value;
        break;
    case ZDS_I32:
        ((int32_t *)base)[i] = (int32_t)value;
        break;
    default:
        ((int64_t *)base)[i] = value;
    }
}

static void reduce_ints(const void *const *sources, int32_t ranks, zds_dtype dtype, int32_t op,
                        void *dst, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        int64_t value = load_int(sources[0], dtype, i);
        for (int32_t r = 1; r < ranks; r++) {
            int64_t next = load_int(sources[r], dtype, i);
            if (op == ZDS_MAX)
                value = next > value ? next : value;
            else /* wraps as unsigned does */
                value = (int64_t)((uint64_t)value + (uint64_t)next);
        }
        store_int(dst, dtype, i, op == ZDS_AVG ? value / ranks : value);
    }
}

/* MAX keeps a NaN that any rank has. */
static double larger(double a, double b)
{
    return a != a || a > b ? a : b;
}

static void reduce_doubles(const void *const *sources, int32_t ranks, int32_t op, double *dst,
                           uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        double value = ((const double *)sources[0])[i];
        for (int32_t r = 1; r < ranks; r++) {
            double next = ((const double *)sources[r])[i];
            value = op == ZDS_MAX ? larger(value, next) : value + next;
        }
        dst[i] = op == ZDS_AVG ? value / ranks : value;
    }
}

static void max_floats(const zds_host *host, const void *const *sources, int32_t ranks,
                       zds_dtype dtype, void *dst, uint64_t count)
{
    const reduce_kernels *k = reduce_kernels_best(host);
    size_t size = zds_dtype_size(dtype);
    float best[REDUCE_CHUNK], next[REDUCE_CHUNK];
    for (uint64_t at = 0; at < count; at += REDUCE_CHUNK) {
        size_t n = count - at < REDUCE_CHUNK ? count - at : REDUCE_CHUNK;
        for (int32_t r = 0; r < ranks; r++) {
            float *room = r ? next : best;
            const char *in = (const char *)sources[r] + at * size;
            if (dtype == ZDS_F32)
                memcpy(room, in, n * size);
            else
                k->widen(room, (const uint16_t *)(const void *)in, n, dtype);
            for (size_t i = 0; r && i < n; i++)
                best[i] = (float)larger(best[i], next[i]);
        }
        char *out = (char *)dst + at * size;
        if (dtype == ZDS_F32)
            memcpy(out, best, n * size);
        else
            k->narrow((uint16_t *)(void *)out, best, n, dtype);
    }
}

void reduce_plain(const zds_host *host, const void *const *sources, int32_t ranks, zds_dtype dtype,
                  int32_t op, void *dst, uint64_t count)
{
    if (reduce_fusable(dtype) && op != ZDS_MAX) {
        reduce_task task = {.sources = sources,
                            .ranks = ranks,
                            .src_dtype = dtype,
                            .dst_dtype = dtype,
                            .dst = dst,
                            .count = count,
                            .prescale = 1,
                            .postscale = op == ZDS_AVG ? 1.0 / ranks : 1};
        reduce_fused(host, &task);
    } else if (reduce_fusable(dtype)) {
        max_floats(host, sources, ranks, dtype, dst, count);
    } else if (dtype == ZDS_F64) {
        reduce_doubles(sources, ranks, op, dst, count);
    } else {
        reduce_ints(sources, ranks, dtype, op, dst, count);
    }
}
