/* Reductions over the buffers of several ranks, shared by the comm plugins: one pass over memory
 * that scales, sums in fp32 in rank order, accumulates, rounds, and takes statistics. */
#ifndef PLUGINS_COMMON_REDUCE_H
#define PLUGINS_COMMON_REDUCE_H

#include "zds/plugin.h"

enum { REDUCE_CHUNK = 1024 }; /* elements of a statistics chunk, as zds_fused says */

/* dtypes that reduce_plain takes */
#define REDUCE_DTYPES ((1u << ZDS_DTYPE_COUNT) - 1u)

/* One fused reduction; the arithmetic is that of zds_fused in zds/plugin.h. */
typedef struct reduce_task {
    const void *const *sources; /* [ranks], each with `count` elements of src_dtype */
    int32_t ranks;
    zds_dtype src_dtype, dst_dtype; /* F32, BF16 or F16 */
    void *dst;                      /* (count); may be one of the sources */
    uint64_t count;
    double prescale, postscale;
    bool accumulate;
    bool statistics;
    const zds_segment *segments; /* with statistics; ascending, disjoint, inside count */
    size_t segment_stride, segment_count;
    double *chunk_sums;
    uint64_t *non_finite;
} reduce_task;

/* True for dtypes that a fused reduction can read or write. */
bool reduce_fusable(zds_dtype dtype);
/* Runs the task on the host's threads. Where dst is the only source and nothing would change, it
 * is only read, and without statistics not even that. */
void reduce_fused(const zds_host *host, const reduce_task *task);
/* Statistics alone of task->dst. */
void reduce_statistics(const zds_host *host, const reduce_task *task);

/* dst[i] = SUM, AVG or MAX over ranks of sources[r][i], any dtype, in rank order. 16-bit floats are
 * summed in fp32, integers in 64 bits (AVG truncates towards zero). */
void reduce_plain(const zds_host *host, const void *const *sources, int32_t ranks, zds_dtype dtype,
                  int32_t op, void *dst, uint64_t count);

/* memcpy on the host's threads, past the caches where the copy is larger than they are. */
void reduce_copy(const zds_host *host, void *dst, const void *src, uint64_t bytes);

/* The kernels of one level. All work on at most REDUCE_CHUNK elements in the first-level
 * cache; every level gives the same bits. */
typedef struct reduce_kernels {
    /* acc[i] = (add ? acc[i] : 0) + scale * a[i], then + scale * b[i] where b is not NULL; without
     * `add` the first term stands alone, so that -0 stays -0. */
    void (*sum)(float *acc, const float *a, const float *b, size_t n, float scale, bool add);
    /* acc[i] = scale * acc[i], plus base[i] where base is not NULL */
    void (*finish)(float *acc, const float *base, size_t n, float scale);
    /* 16-bit floats to fp32 and back, nearest even */
    void (*widen)(float *out, const uint16_t *in, size_t n, zds_dtype dtype);
    void (*narrow)(uint16_t *out, const float *in, size_t n, zds_dtype dtype);
    /* The sum of squares of one chunk in zds_fused's order; adds to *non_finite. */
    double (*squares)(const float *x, size_t n, uint64_t *non_finite);
    /* memcpy that does not fill the caches; needs a fence by `stream_end` afterwards */
    void (*stream)(void *dst, const void *src, size_t bytes);
    void (*stream_end)(void);
} reduce_kernels;

extern const reduce_kernels reduce_scalar, reduce_avx2, reduce_avx512;
/* Those of a level of simd_level.h. */
const reduce_kernels *reduce_kernels_at(int level);
/* Those of the level that simd_level chooses. */
const reduce_kernels *reduce_kernels_best(const zds_host *host);
/* As reduce_fused, with given kernels: for tests. */
void reduce_fused_with(const zds_host *host, const reduce_task *task, const reduce_kernels *k);

#endif
