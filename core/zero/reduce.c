/* Gradients on their way from backward to the owners' slices.
 *
 * Callers write either into the full gradient (`grads`, stages 0 and 1) or into the pool, which a
 * span occupies from its first use in a backward until it is reduced. Spans are reduced last first,
 * whatever a rank reports, so all ranks issue the same operations. */
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "zero/kernels.h"

static char *at(void *base, uint64_t elements, zds_dtype dtype)
{
    return (char *)base + elements * zds_dtype_size(dtype);
}

void *reduce_grad_pointer(zds_engine *e, uint32_t param)
{
    const layout_place *place = &e->lay->places[param];
    const layout_span *span = &e->lay->spans[place->span];
    return e->pooled ? at(e->pool.base, span->pool_first + (place->first - span->first),
                          e->set.param_dtype)
                     : at(e->grads.base, place->first, e->set.accum_dtype);
}

/* Where this rank's part of a span is kept once reduced. */
static void *part_of(zds_engine *e, const layout_span *span)
{
    if (e->set.stage >= 2)
        return at(e->slices, span->shard_first, e->set.accum_dtype);
    return at(e->grads.base, span->first + layout_part_first(span, (uint32_t)e->place.rank),
              e->set.accum_dtype);
}

static zds_status wait_all(zds_engine *e, uint32_t k, const char *doing)
{
    const span_run *run = &e->span_runs[k];
    for (size_t i = 0; i < run->event_count; i++) {
        zds_status status = engine_wait(e, &run->events[i], doing);
        if (status)
            return status;
    }
    return ZDS_OK;
}

typedef struct local_pass {
    zds_engine *e;
    span_run *run;
    const char *from; /* this rank's part of what arrived */
    zds_dtype from_dtype;
    char *to;
    double scale;
    bool accumulate;
    uint64_t count;
    size_t parts; /* of the work, for the threads */
} local_pass;

/* What zds_fused would have counted, from the slice as it is now. */
static void statistics(local_pass *p)
{
    const span_run *run = p->run;
    size_t chunk = 0;
    uint64_t bad = 0;
    for (size_t s = 0; s < run->segment_count; s++)
        for (uint64_t i = 0; i < run->segments[s].count; i += LAYOUT_CHUNK) {
            uint64_t left = run->segments[s].count - i;
            run->chunk_sums[chunk++] = kernel_chunk_sum(
                p->to + (run->segments[s].first + i) * zds_dtype_size(p->e->set.accum_dtype),
                p->e->set.accum_dtype, left < LAYOUT_CHUNK ? left : LAYOUT_CHUNK, &bad);
        }
    p->run->non_finite = bad;
}

static void postprocess(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    local_pass *p = arg;
    uint64_t begin = p->count / p->parts * i,
             end = i + 1 == p->parts ? p->count : p->count / p->parts * (i + 1);
    kernel_accumulate(p->to + begin * zds_dtype_size(p->e->set.accum_dtype), p->e->set.accum_dtype,
                      p->from + begin * zds_dtype_size(p->from_dtype), p->from_dtype, p->scale,
                      p->accumulate, end - begin);
}

/* Source of a span's reduction: what travels, and its dtype. */
static char *source_of(zds_engine *e, const layout_span *span, zds_dtype *dtype)
{
    if (e->staged) {
        *dtype = e->set.comm_dtype;
        return e->travel.base;
    }
    *dtype = e->set.stage >= 2 ? e->set.param_dtype : e->set.accum_dtype;
    return e->set.stage >= 2 ? at(e->pool.base, span->pool_first, *dtype)
                             : at(e->grads.base, span->first, *dtype);
}

static void land(zds_engine *e, uint32_t k)
{
    for (uint32_t i = 0; i < e->in_flight_count; i++)
        if (e->in_flight[i] == k) {
            e->in_flight[i] = e->in_flight[--e->in_flight_count];
            return;
        }
}

/* Waits for a span's reduction and, where the plugin only summed, scales, adds and takes the
 * statistics. */
static zds_status finish(zds_engine *e, uint32_t k)
{
    span_run *run = &e->span_runs[k];
    const layout_span *span = &e->lay->spans[k];
    if (run->state != SPAN_REDUCING)
        return ZDS_OK;
    zds_status status = wait_all(e, k, "reducing gradients");
    if (status)
        return status;
    if (e->travelling == (int32_t)k)
        e->travelling = -1;
    run->state = SPAN_IDLE;
    land(e, k);
    if (!e->fused) {
        zds_dtype dtype;
        char *source = source_of(e, span, &dtype);
        local_pass p = {.e = e,
                        .run = run,
                        .from_dtype = dtype,
                        .to = part_of(e, span),
                        .scale = e->set.postscale,
                        .accumulate = e->set.stage >= 2 && run->accumulated,
                        .count = layout_part_count(span, (uint32_t)e->place.rank)};
        p.from = at(source, layout_part_first(span, (uint32_t)e->place.rank), dtype);
        p.parts = p.count >= 65536 ? (size_t)pool_threads(e->threads) : 1;
        if (p.from != p.to || p.scale != 1)
            pool_run(e->threads, p.parts, postprocess, &p);
        if (e->boundary)
            statistics(&p);
    }
    run->accumulated = true;
    if (e->set.stage > 0 || e->place.world_size == 1)
        return ZDS_OK;
    /* Every rank of stage 0 updates everything: it gets the others' slices too. */
    zds_coll gather = {.struct_size = sizeof gather,
                       .tag = (uint64_t)k << 8 | 2,
                       .src = part_of(e, span),
                       .dst = at(e->grads.base, span->first, e->set.accum_dtype),
                       .count = span->slice,
                       .src_dtype = e->set.accum_dtype,
                       .dst_dtype = e->set.accum_dtype};
    services_clear(&e->comm_services);
    status = e->comm.all_gather(e->comm_self, &gather, &run->events[0]);
    return status ? engine_comm_failed(e, status, "gathering gradients") : ZDS_OK;
}

/* Pool memory of a span about to be written must not be in flight. */
zds_status reduce_open(zds_engine *e, uint32_t k)
{
    span_run *run = &e->span_runs[k];
    if (run->state == SPAN_OPEN || !e->pooled)
        return ZDS_OK;
    const layout_span *span = &e->lay->spans[k];
    /* Below stage 2 the pool was copied out, and it is the full gradient that is in flight. */
    for (uint32_t i = 0; i < e->in_flight_count;) {
        const layout_span *other = &e->lay->spans[e->in_flight[i]];
        if (other->pool_first >= span->pool_first + span->count ||
            span->pool_first >= other->pool_first + other->count) {
            i++;
            continue;
        }
        zds_status status = finish(e, e->in_flight[i]); /* another takes its place in the list */
        if (status)
            return status;
    }
    run->state = SPAN_OPEN;
    return ZDS_OK;
}

/* Zeros for parameters of a span that this rank has nothing for, and in the gaps between
 * parameters. */
static void fill_missing(zds_engine *e, const layout_span *span)
{
    size_t size = zds_dtype_size(e->pooled ? e->set.param_dtype : e->set.accum_dtype);
    char *base = e->pooled ? at(e->pool.base, span->pool_first, e->set.param_dtype)
                           : at(e->grads.base, span->first, e->set.accum_dtype);
    uint64_t filled = 0;
    for (uint32_t i = 0; i < span->param_count; i++) {
        uint32_t param = span->params[i];
        uint64_t first = e->lay->places[param].first - span->first;
        if (e->pooled)
            memset(base + filled * size, 0, (first - filled) * size);
        if (!e->param_runs[param].written)
            memset(base + first * size, 0, e->model->params[param].numel * size);
        filled = first + e->model->params[param].numel;
    }
    if (e->pooled)
        memset(base + filled * size, 0, (span->count - filled) * size);
}

/* Stages 0 and 1 that accumulate in another dtype: add this micro step's gradients to the full
 * ones. */
static void accumulate_locally(zds_engine *e, const layout_span *span, bool add)
{
    local_pass p = {.e = e,
                    .from_dtype = e->set.param_dtype,
                    .from = at(e->pool.base, span->pool_first, e->set.param_dtype),
                    .to = at(e->grads.base, span->first, e->set.accum_dtype),
                    .scale = 1,
                    .accumulate = add,
                    .count = span->count};
    p.parts = span->count >= 65536 ? (size_t)pool_threads(e->threads) : 1;
    pool_run(e->threads, p.parts, postprocess, &p);
}

static zds_status prepare_travel(zds_engine *e, uint32_t k, char *from, zds_dtype dtype)
{
    const layout_span *span = &e->lay->spans[k];
    if (e->staged) {
        if (e->travelling >= 0) {
            zds_status status = finish(e, (uint32_t)e->travelling);
            if (status)
                return status;
        }
        kernel_convert(e->travel.base, e->set.comm_dtype, from, dtype, span->count);
        e->travelling = (int32_t)k;
        from = e->travel.base;
        dtype = e->set.comm_dtype;
    }
    if (!e->fused && e->set.prescale != 1)
        kernel_accumulate(from, dtype, from, dtype, e->set.prescale, false, span->count);
    return ZDS_OK;
}

/* What the plugin does besides reducing. */
static void fuse(zds_engine *e, span_run *run)
{
    run->fused = (zds_fused){.struct_size = sizeof run->fused,
                             .prescale = e->set.prescale,
                             .postscale = e->set.postscale,
                             .accumulate = e->set.stage >= 2 && run->accumulated};
    run->fused_away = run->fused;
    if (e->boundary) {
        run->fused.segments = run->segments;
        run->fused.segment_stride = sizeof *run->segments;
        run->fused.segment_count = run->segment_count;
        run->fused.chunk_sums = run->chunk_sums;
        run->fused.non_finite = &run->non_finite;
    }
}

/* Parameters that are not cut: each owner gets the sum of its own. */
static zds_status reduce_to_owners(zds_engine *e, uint32_t k, zds_coll coll)
{
    const layout_span *span = &e->lay->spans[k];
    span_run *run = &e->span_runs[k];
    char *source = (char *)(uintptr_t)coll.src;
    zds_status status = e->comm.group_begin ? e->comm.group_begin(e->comm_self) : ZDS_OK;
    size_t i = 0;
    for (uint32_t r = 0; !status && r < e->lay->world_size; r++) {
        bool mine = r == (uint32_t)e->place.rank;
        coll.count = layout_part_count(span, r);
        if (!coll.count)
            continue;
        coll.peer = (int32_t)r;
        coll.src = at(source, layout_part_first(span, r), coll.src_dtype);
        coll.dst = !mine ? NULL : e->fused ? part_of(e, span) : (void *)(uintptr_t)coll.src;
        if (e->fused)
            coll.fused = mine ? &run->fused : &run->fused_away;
        status = e->comm.reduce(e->comm_self, &coll, &run->events[i++]);
    }
    if (!status && e->comm.group_end)
        status = e->comm.group_end(e->comm_self);
    return status;
}

static zds_status reduce(zds_engine *e, uint32_t k)
{
    const layout_span *span = &e->lay->spans[k];
    span_run *run = &e->span_runs[k];
    zds_dtype dtype = e->set.stage >= 2 ? e->set.param_dtype : e->set.accum_dtype;
    char *from = e->set.stage >= 2 ? at(e->pool.base, span->pool_first, dtype)
                                   : at(e->grads.base, span->first, dtype);
    zds_status status = prepare_travel(e, k, from, dtype);
    if (status)
        return status;
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = (uint64_t)k << 8 | 1,
                     .count = span->slice,
                     .op = ZDS_SUM};
    coll.src = source_of(e, span, &coll.src_dtype);
    coll.dst_dtype = coll.src_dtype;
    services_clear(&e->comm_services);
    run->non_finite = 0;
    if (e->fused) {
        fuse(e, run);
        coll.dst_dtype = e->set.accum_dtype;
    }
    if (span->parts) {
        status = reduce_to_owners(e, k, coll);
    } else if (e->fused) {
        coll.fused = &run->fused;
        coll.dst = part_of(e, span);
        status = e->comm.reduce_scatter(e->comm_self, &coll, &run->events[0]);
    } else if (e->set.reduce_scatter) {
        coll.dst =
            at((void *)(uintptr_t)coll.src, (uint64_t)e->place.rank * span->slice, coll.src_dtype);
        status = e->comm.reduce_scatter(e->comm_self, &coll, &run->events[0]);
    } else {
        coll.dst = (void *)(uintptr_t)coll.src;
        coll.count = span->count;
        status = e->comm.all_reduce(e->comm_self, &coll, &run->events[0]);
    }
    if (status)
        return engine_comm_failed(e, status, "reducing gradients");
    run->state = SPAN_REDUCING;
    if (e->set.stage >= 2)
        e->in_flight[e->in_flight_count++] = k;
    return e->set.overlap ? ZDS_OK : finish(e, k);
}

/* All modules of a span are reported: its gradient of this micro step is whole. */
static zds_status span_done(zds_engine *e, uint32_t k)
{
    span_run *run = &e->span_runs[k];
    const layout_span *span = &e->lay->spans[k];
    bool reduces = e->set.stage >= 2 || e->boundary;
    bool any = false;
    for (uint32_t i = 0; i < span->param_count; i++)
        any |= e->param_runs[span->params[i]].written;
    if (e->pooled && (any || reduces)) {
        zds_status status = reduce_open(e, k);
        if (status)
            return status;
        fill_missing(e, span);
        if (e->set.stage < 2) {
            accumulate_locally(e, span, run->accumulated);
            run->accumulated = true;
        }
        for (uint32_t i = 0; i < span->param_count; i++) /* the next micro step overwrites */
            e->param_runs[span->params[i]].written = false;
    } else if (reduces) {
        fill_missing(e, span);
    }
    if (run->state == SPAN_OPEN)
        run->state = SPAN_IDLE;
    if (reduces && e->local)
        own_statistics(e, k);
    return reduces && span->count && !e->local ? reduce(e, k) : ZDS_OK;
}

zds_status reduce_module_done(zds_engine *e, uint32_t module)
{
    if (e->lay->span_of[module] == LAYOUT_NONE)
        return ZDS_OK;
    for (uint32_t k = (uint32_t)e->lay->span_of[module];; k--) {
        span_run *run = &e->span_runs[k];
        zds_status status = run->waiting && --run->waiting ? ZDS_OK : span_done(e, k);
        if (status || !layout_has_sibling(e->lay, k))
            return status;
    }
}

zds_status reduce_finish_all(zds_engine *e)
{
    for (uint32_t k = e->lay->span_count; k-- > 0;) {
        zds_status status = finish(e, k);
        if (status)
            return status;
    }
    for (uint32_t k = e->lay->span_count; k-- > 0;) {
        zds_status status = wait_all(e, k, "gathering gradients");
        if (status)
            return status;
    }
    return ZDS_OK;
}
