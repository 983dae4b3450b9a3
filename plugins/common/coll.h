/* What every comm plugin does with the arguments of a collective before it looks at its own world.
 */
#ifndef PLUGINS_COMMON_COLL_H
#define PLUGINS_COMMON_COLL_H

#include <string.h>

#include "common/reduce.h"

/* The caller's struct, as far as it reaches, with the rest zero. */
static inline zds_coll coll_copy(const zds_coll *coll)
{
    zds_coll copy = {0};
    memcpy(&copy, coll, coll->struct_size < sizeof copy ? coll->struct_size : sizeof copy);
    return copy;
}

static inline zds_fused fused_copy(const zds_fused *fused)
{
    zds_fused copy = {0};
    memcpy(&copy, fused, fused->struct_size < sizeof copy ? fused->struct_size : sizeof copy);
    return copy;
}

/* Refuses structs that say nothing of themselves. */
static inline zds_status coll_check_size(const zds_host *host, const char *name, const zds_coll *c)
{
    if (c->struct_size < ZDS_COLL_1_0)
        return host->fail(host, ZDS_ERR_INVALID,
                          "%s: struct_size of zds_coll is %zu, less than the %zu of ABI 1.0", name,
                          c->struct_size, ZDS_COLL_1_0);
    if (c->fused && c->fused->struct_size < ZDS_FUSED_1_0)
        return host->fail(host, ZDS_ERR_INVALID,
                          "%s: struct_size of zds_fused is %zu, less than the %zu of ABI 1.0", name,
                          c->fused->struct_size, ZDS_FUSED_1_0);
    return ZDS_OK;
}

static inline const zds_segment *coll_segment(const zds_fused *fused, size_t i)
{
    return (const zds_segment *)(const void *)((const char *)fused->segments +
                                               i * fused->segment_stride);
}

static inline zds_status coll_check_fused(const zds_host *host, const char *name, const zds_coll *c)
{
    if (!reduce_fusable(c->src_dtype) || !reduce_fusable(c->dst_dtype))
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "%s: a fused reduction takes F32, F16 and BF16, not dtypes %d and %d",
                          name, (int)c->src_dtype, (int)c->dst_dtype);
    const zds_fused *f = c->fused;
    if (f->segments &&
        (f->segment_stride < sizeof(zds_segment) || f->segment_stride % _Alignof(zds_segment) != 0))
        return host->fail(host, ZDS_ERR_INVALID,
                          "%s: segment_stride is %zu; it must be sizeof(zds_segment)", name,
                          f->segment_stride);
    uint64_t end = 0;
    for (size_t i = 0; f->segments && i < f->segment_count; i++) {
        const zds_segment *s = coll_segment(f, i);
        if (s->first < end || s->first > c->count || s->count > c->count - s->first)
            return host->fail(host, ZDS_ERR_INVALID,
                              "%s: statistics segment %zu is out of order or past the end", name,
                              i);
        end = s->first + s->count;
    }
    return ZDS_OK;
}

/* Refuses dtypes and operations that do not exist or do not go together. `reduces`: 0 for copies.
 */
static inline zds_status coll_check(const zds_host *host, const char *name, const zds_coll *c,
                                    bool reduces)
{
    if (!zds_dtype_size(c->src_dtype))
        return host->fail(host, ZDS_ERR_INVALID, "%s: source dtype %d does not exist", name,
                          (int)c->src_dtype);
    if (c->stream && c->stream->device.space != ZDS_SPACE_HOST)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "%s: this backend has no device streams; use one that has (nccl)", name);
    if (reduces && !c->fused && (c->op < ZDS_SUM || c->op > ZDS_MAX))
        return host->fail(host, ZDS_ERR_INVALID, "%s: operation %d is not SUM, AVG or MAX", name,
                          (int)c->op);
    if (c->fused)
        return coll_check_fused(host, name, c);
    if (c->src_dtype != c->dst_dtype)
        return host->fail(host, ZDS_ERR_INVALID,
                          "%s: dtypes %d and %d differ, which only a fused reduction may", name,
                          (int)c->src_dtype, (int)c->dst_dtype);
    return ZDS_OK;
}

/* The fused reduction of `ranks` sources into c->dst. */
static inline reduce_task coll_fused_task(const zds_coll *c, const void *const *sources,
                                          int32_t ranks)
{
    zds_fused f = fused_copy(c->fused);
    return (reduce_task){.sources = sources,
                         .ranks = ranks,
                         .src_dtype = c->src_dtype,
                         .dst_dtype = c->dst_dtype,
                         .dst = c->dst,
                         .count = c->count,
                         .prescale = f.prescale,
                         .postscale = f.postscale,
                         .accumulate = f.accumulate != 0,
                         .statistics = f.segments != NULL,
                         .segments = f.segments,
                         .segment_stride = f.segment_stride,
                         .segment_count = f.segments ? f.segment_count : 0,
                         .chunk_sums = f.chunk_sums,
                         .non_finite = f.non_finite};
}

#endif
