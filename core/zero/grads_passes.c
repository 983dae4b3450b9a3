/* What is done to gradients beside reducing them, on all threads: conversion, scaling, zeros, and
 * statistics where a comm plugin has none. Sums are taken in chunks of 1024 and added in chunk
 * order, so that the bits do not depend on threads. */
#include <stdatomic.h>
#include <string.h>

#include "host/kernels.h"
#include "zero/parts.h"

enum { RUN = 64 * LAYOUT_CHUNK }; /* elements that a thread takes at once */

static size_t runs_of(uint64_t count)
{
    return (size_t)((count + RUN - 1) / RUN);
}

static uint64_t run_count(uint64_t count, size_t i)
{
    uint64_t left = count - i * (uint64_t)RUN;
    return left < RUN ? left : RUN;
}

static void accumulate_run(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const grads_pass *p = arg;
    uint64_t first = i * (uint64_t)RUN;
    kernel_accumulate(p->to + first * zds_dtype_size(p->to_dtype), p->to_dtype,
                      p->from + first * zds_dtype_size(p->from_dtype), p->from_dtype, p->scale,
                      p->accumulate, run_count(p->count, i));
}

void grads_accumulate(zero *z, const grads_pass *pass)
{
    grads_pass p = *pass;
    pool_run(z->with.threads, runs_of(p.count), accumulate_run, &p);
}

static void convert_run(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const grads_pass *p = arg;
    uint64_t first = i * (uint64_t)RUN;
    kernel_convert(p->to + first * zds_dtype_size(p->to_dtype), p->to_dtype,
                   p->from + first * zds_dtype_size(p->from_dtype), p->from_dtype,
                   run_count(p->count, i));
}

void grads_convert(zero *z, const grads_pass *pass)
{
    grads_pass p = *pass;
    pool_run(z->with.threads, runs_of(p.count), convert_run, &p);
}

static void clear_run(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const grads_pass *p = arg;
    memset(p->to + i * (uint64_t)RUN, 0, run_count(p->count, i));
}

void grads_clear(zero *z, char *at, uint64_t bytes)
{
    grads_pass p = {.to = at, .count = bytes};
    pool_run(z->with.threads, runs_of(bytes), clear_run, &p);
}

typedef struct statistics_pass {
    const char *part;
    zds_dtype dtype;
    const zds_segment *segment;
    double *chunk_sums; /* of the segment */
    _Atomic uint64_t bad;
} statistics_pass;

static void count_run(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    statistics_pass *p = arg;
    uint64_t first = i * (uint64_t)RUN, count = run_count(p->segment->count, i), bad = 0;
    size_t size = zds_dtype_size(p->dtype);
    double *sums = p->chunk_sums + first / LAYOUT_CHUNK;
    for (uint64_t k = 0; k < count; k += LAYOUT_CHUNK)
        *sums++ = kernel_chunk_sum(p->part + (p->segment->first + first + k) * size, p->dtype,
                                   count - k < LAYOUT_CHUNK ? count - k : LAYOUT_CHUNK, &bad);
    atomic_fetch_add_explicit(&p->bad, bad, memory_order_relaxed);
}

void grads_statistics(zero *z, span_run *run, const char *part)
{
    statistics_pass p = {.part = part, .dtype = z->wish.accum_dtype, .chunk_sums = run->chunk_sums};
    for (size_t s = 0; s < run->segment_count; s++) {
        p.segment = &run->segments[s];
        pool_run(z->with.threads, runs_of(p.segment->count), count_run, &p);
        p.chunk_sums += (p.segment->count + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK;
    }
    run->non_finite = p.bad;
}

typedef struct own_pass {
    const zero *z;
    const char *grad;
    uint64_t count;
} own_pass;

static void sum_share(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const own_pass *p = arg;
    zds_dtype dtype = p->z->wish.accum_dtype;
    uint64_t first = i * (uint64_t)NORM_SHARE;
    uint64_t end = p->count - first < NORM_SHARE ? p->count : first + NORM_SHARE;
    norm_share share = {0};
    for (uint64_t k = first; k < end; k += LAYOUT_CHUNK)
        share.sum_squares +=
            kernel_chunk_sum(p->grad + k * zds_dtype_size(dtype), dtype,
                             end - k < LAYOUT_CHUNK ? end - k : LAYOUT_CHUNK, &share.non_finite);
    p->z->grads.own_shares[i] = share;
}

void grads_own_statistics(zero *z, uint32_t k)
{
    const layout_span *span = &z->lay->spans[k];
    span_run *run = &z->grads.spans[k];
    run->own_sum_squares = 0;
    run->non_finite = 0;
    for (uint32_t i = 0; i < span->param_count; i++) {
        uint32_t param = span->params[i];
        bufref grad =
            bufref_of(&z->grads.full.slab, layout_grad_at(z->lay, param), z->wish.accum_dtype);
        own_pass p = {
            .z = z, .grad = bufref_at(grad, 0), .count = z->with.model->params[param].numel};
        size_t shares = (size_t)((p.count + NORM_SHARE - 1) / NORM_SHARE);
        pool_run(z->with.threads, shares, sum_share, &p);
        for (size_t j = 0; j < shares; j++) {
            run->own_sum_squares += z->grads.own_shares[j].sum_squares;
            run->non_finite += z->grads.own_shares[j].non_finite;
        }
    }
}
