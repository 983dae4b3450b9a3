/* Gradients on their way from backward to the owners' parts.
 *
 * Callers write either where gradients are added up (`full`) or into the grad buffers, of which a
 * span occupies its own from its first use in a backward until it is reduced. Spans are reduced
 * last first, whatever a rank reports, so all ranks issue the same operations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zero/parts.h"

/* === which layout, and how much memory === */

static void decide(const zero *z, grads_part *g)
{
    const zero_wishes *wish = &z->wish;
    const zds_comm_ops *ops = z->with.peers->ops;
    zds_dtype source = g->in_parts ? wish->param_dtype : wish->accum_dtype;
    g->buffered = g->in_parts || wish->accum_dtype != wish->param_dtype;
    g->fused = (ops->flags & ZDS_COMM_FUSED) && wish->reduce_scatter;
    g->comm_dtype = wish->comm_dtype == ZERO_AS_IS ? source : wish->comm_dtype;
    if (!(ops->reduce_dtypes & ZDS_DTYPE_BIT(g->comm_dtype)))
        g->comm_dtype = ZDS_F32; /* what every plugin reduces */
    /* Whoever adds up in fp32 gains nothing from travelling as fp32. */
    g->staged = g->comm_dtype != source && !(g->fused && g->comm_dtype == ZDS_F32);
}

/* Bytes of a rank that depend on whether it keeps its parts only: gradients, buffers, and padding
 * of its shard, which masters and states have too. Where ranks own unequal parts, of the mean rank:
 * all must decide alike. */
static uint64_t weigh(const zero *z, const layout *l, bool in_parts)
{
    grads_part g = {.in_parts = in_parts};
    decide(z, &g);
    uint64_t shard = l->trainable / l->world_size;
    uint64_t bytes =
        (in_parts ? shard : l->trainable) * zds_dtype_size(z->wish.accum_dtype) + 12 * shard;
    bytes += g.buffered ? l->buffers * zds_dtype_size(z->wish.param_dtype) : 0;
    return bytes + (g.staged ? l->largest * zds_dtype_size(g.comm_dtype) : 0);
}

static zds_status lay_out(zero *z, const layout_wish *wish, bool overlap, layout **out,
                          zds_error *error)
{
    zds_status status = layout_create(z->with.model, wish, out);
    if (status == ZDS_ERR_UNSUPPORTED)
        return error_set(error, status,
                         "optimizer %s: its granularities have no common multiple below 16 Mi "
                         "elements",
                         z->with.optim_services->name);
    if (status)
        return error_set(error, status, "no memory for the layout of %u parameters",
                         z->with.model->param_count);
    layout_plan_buffers(*out, overlap);
    return ZDS_OK;
}

/* Buffers take at most what keeping parts saves: the largest buckets with which that is so, with
 * overlap if there are any; else gradients stay whole, as at stage 1. */
zds_status grads_lay_out(zero *z, const layout_wish *wish, zds_error *error)
{
    zds_status status = lay_out(z, wish, false, &z->lay, error);
    if (status || z->wish.stage < 2 || is_alone(z))
        return status;
    uint64_t most = weigh(z, z->lay, false);
    for (int overlap = z->wish.overlap; overlap >= 0; overlap--)
        for (uint64_t bucket = z->lay->largest;; bucket = bucket < 1024 ? 0 : bucket / 2) {
            layout_wish smaller = *wish;
            layout *l;
            smaller.bucket = bucket < wish->bucket ? bucket : wish->bucket;
            status = lay_out(z, &smaller, overlap, &l, error);
            if (status)
                return status;
            if (weigh(z, l, true) <= most) {
                layout_destroy(z->lay);
                z->lay = l;
                z->grads.in_parts = true;
                z->wish.overlap = overlap;
                return ZDS_OK;
            }
            layout_destroy(l);
            if (!bucket)
                break;
        }
    return ZDS_OK;
}

static zds_status take_memory(zero *z, zds_error *error)
{
    const zero_wishes *wish = &z->wish;
    const layout *l = z->lay;
    grads_part *g = &z->grads;
    peers *p = z->with.peers;
    size_t accum = zds_dtype_size(wish->accum_dtype);
    uint64_t most = zero_is_here(z) ? l->shard : layout_largest_shard(l); /* as ranks know it */
    decide(z, g);
    zds_status status =
        g->in_parts
            ? zero_alloc_known(z, z->with.tier, &g->shard, "gradients", most * accum, error)
            : peers_alloc(p, &g->full, "gradients", l->trainable * accum, ZDS_MEM_SYMMETRIC, error);
    if (!status && g->buffered)
        status =
            peers_alloc(p, &g->buffers, "reduce buffers",
                        l->buffers * zds_dtype_size(wish->param_dtype), ZDS_MEM_SYMMETRIC, error);
    if (!status && g->staged)
        status = peers_alloc(p, &g->travel, "reduce buffers",
                             l->largest * zds_dtype_size(g->comm_dtype), ZDS_MEM_SYMMETRIC, error);
    return status;
}

static void free_memory(zero *z)
{
    grads_part *g = &z->grads;
    peers_free(z->with.peers, &g->shard);
    peers_free(z->with.peers, &g->travel);
    peers_free(z->with.peers, &g->buffers);
    peers_free(z->with.peers, &g->full);
}

zds_status zero_accumulate_in(zero *z, zds_dtype dtype)
{
    zds_error error = ZDS_ERROR_INIT;
    free_memory(z);
    z->wish.accum_dtype = dtype;
    zds_status status = take_memory(z, &error);
    if (status) { /* there is nowhere to go back to */
        failure_set(z->with.failure, status, "%s", error.text ? error.text : "");
        zds_error_clear(&error);
        return peers_give_up(z->with.peers, status);
    }
    stream_refer(z);
    return ZDS_OK;
}

/* Room for the events of a span's reduction, and the parameters inside this rank's part, which the
 * norm counts. */
static zds_status span_create(zero *z, uint32_t k, zds_error *error)
{
    const layout_span *span = &z->lay->spans[k];
    span_run *run = &z->grads.spans[k];
    if (!layout_is_trained(span))
        return ZDS_OK;
    size_t room = span->parts ? z->lay->world_size : 1;
    run->segments = calloc(span->param_count, sizeof *run->segments);
    run->events = calloc(room, sizeof(zds_event *));
    run->event_count = run->events ? room : 0;
    run->what =
        text_format("gradients of module %s", z->with.model->modules[span->first_module].name);
    if (!run->segments || !run->events || !run->what)
        return zero_no_memory(error, "the reduction of a span", 0);
    for (uint32_t i = 0; i < span->param_count; i++) {
        layout_piece own =
            layout_piece_of(z->lay, z->with.model, span->params[i], (uint32_t)z->with.peers->rank);
        if (!own.count)
            continue;
        run->segments[run->segment_count++] =
            (zds_segment){.first = own.part_first, .count = own.count};
        run->chunk_count += (own.count + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK;
    }
    uint64_t bytes = run->chunk_count * sizeof(double);
    run->chunk_sums = ledger_alloc(z->with.ledger, "norm", bytes, 0);
    return run->chunk_sums ? ZDS_OK : zero_no_memory(error, "the norm", bytes);
}

/* What sums of chunks take: of gradients that stay this rank's own, of the largest parameter; and
 * on a device, of what is summed at once, a place there. */
static zds_status sums_create(zero *z, zds_error *error)
{
    grads_part *g = &z->grads;
    uint64_t largest = 1, most = 1;
    for (uint32_t k = 0; k < z->lay->span_count; k++)
        most = g->spans[k].chunk_count > most ? g->spans[k].chunk_count : most;
    for (uint32_t i = 0; i < z->with.model->param_count; i++)
        if (z->with.params[i].trainable && z->with.model->params[i].numel > largest)
            largest = z->with.model->params[i].numel;
    largest = (largest + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK;
    if (z->with.optim->reduction_mode) {
        g->own_sums = ledger_alloc(z->with.ledger, "norm", largest * sizeof(double), 0);
        if (!g->own_sums)
            return zero_no_memory(error, "the norm", largest * sizeof(double));
        most = largest > most ? largest : most;
    }
    return zero_is_here(z)
               ? ZDS_OK
               : zero_alloc(z->with.tier, &g->sums, "norm", (most + 1) * sizeof(double), error);
}

zds_status grads_create(zero *z, zds_error *error)
{
    grads_part *g = &z->grads;
    size_t params = z->with.model->param_count + (size_t)1, spans = z->lay->span_count + (size_t)1;
    g->travelling = -1;
    g->spans = calloc(spans, sizeof *g->spans);
    g->in_flight = calloc(spans, sizeof *g->in_flight);
    g->written = calloc(params, sizeof *g->written);
    g->present = calloc(params, sizeof *g->present);
    if (!g->spans || !g->in_flight || !g->written || !g->present)
        return zero_no_memory(error, "spans", 0);
    zds_status status = take_memory(z, error);
    for (uint32_t k = 0; !status && k < z->lay->span_count; k++)
        status = span_create(z, k, error);
    return status ? status : sums_create(z, error);
}

void grads_destroy(zero *z)
{
    grads_part *g = &z->grads;
    for (uint32_t k = 0; g->spans && k < z->lay->span_count; k++) {
        for (size_t i = 0; i < g->spans[k].event_count; i++)
            if (g->spans[k].events[i])
                g->spans[k].events[i]->ops->release(g->spans[k].events[i]);
        free(g->spans[k].segments);
        free(g->spans[k].events);
        free(g->spans[k].what);
    }
    free_memory(z);
    tier_free(&g->sums);
    free(g->spans);
    free(g->in_flight);
    free(g->written);
    free(g->present);
}

/* === where a gradient is === */

static bufref in_full(const zero *z, uint64_t first)
{
    return bufref_of(&z->grads.full.slab, first, z->wish.accum_dtype);
}

/* Of a span, where backward writes it. */
static bufref written_at(const zero *z, const layout_span *span)
{
    const grads_part *g = &z->grads;
    return g->buffered ? bufref_of(&g->buffers.slab, span->buffer_first, z->wish.param_dtype)
                       : in_full(z, span->grad_first);
}

void *grads_pointer(zero *z, uint32_t param)
{
    const layout_place *place = &z->lay->places[param];
    return bufref_element(written_at(z, &z->lay->spans[place->span]), place->first);
}

bufref grads_of_piece(const zero *z, const layout_piece *own)
{
    const layout_place *place = &z->lay->places[own->param];
    const layout_span *span = &z->lay->spans[place->span];
    return z->grads.in_parts ? bufref_of(&z->grads.shard.slab, span->shard_first + own->part_first,
                                         z->wish.accum_dtype)
                             : in_full(z, span->grad_first + place->first + own->param_first);
}

/* Where this rank's part of a span is kept once reduced. */
static bufref part_of(const zero *z, const layout_span *span)
{
    if (z->grads.in_parts)
        return bufref_of(&z->grads.shard.slab, span->shard_first, z->wish.accum_dtype);
    return in_full(z, span->grad_first + layout_part_first(span, (uint32_t)z->with.peers->rank));
}

/* What is reduced of a span, before a copy of it travels. */
static bufref gathered_at(const zero *z, const layout_span *span)
{
    return z->grads.in_parts
               ? bufref_of(&z->grads.buffers.slab, span->buffer_first, z->wish.param_dtype)
               : in_full(z, span->grad_first);
}

/* What travels. */
static bufref source_of(const zero *z, const layout_span *span)
{
    return z->grads.staged ? bufref_of(&z->grads.travel.slab, 0, z->grads.comm_dtype)
                           : gathered_at(z, span);
}

/* === finishing a reduction === */

static zds_status wait_all(zero *z, uint32_t k, const char *doing)
{
    const span_run *run = &z->grads.spans[k];
    for (size_t i = 0; i < run->event_count; i++) {
        zds_status status = peers_wait(z->with.peers, &run->events[i], doing);
        if (status)
            return status;
    }
    return ZDS_OK;
}

static void land(grads_part *g, uint32_t k)
{
    for (uint32_t i = 0; i < g->in_flight_count; i++)
        if (g->in_flight[i] == k) {
            g->in_flight[i] = g->in_flight[--g->in_flight_count];
            return;
        }
}

/* Where the plugin only summed: scales, adds and takes the statistics. */
static zds_status postprocess(zero *z, const layout_span *span, span_run *run)
{
    uint32_t rank = (uint32_t)z->with.peers->rank;
    bufref to = part_of(z, span);
    bufref from = bufref_moved(source_of(z, span), layout_part_first(span, rank));
    zds_status status = ZDS_OK;
    if (from.slab != to.slab || from.offset != to.offset || z->wish.postscale != 1)
        status =
            zero_accumulate(z, to, from, z->wish.postscale, z->grads.in_parts && run->accumulated,
                            layout_part_count(span, rank));
    return !status && z->boundary ? grads_sums(z, to, run->segments, run->segment_count,
                                               run->chunk_sums, &run->non_finite)
                                  : status;
}

static zds_status finish(zero *z, uint32_t k)
{
    grads_part *g = &z->grads;
    span_run *run = &g->spans[k];
    const layout_span *span = &z->lay->spans[k];
    if (run->state != SPAN_REDUCING)
        return ZDS_OK;
    zds_status status = wait_all(z, k, run->what);
    if (status)
        return status;
    if (g->travelling == (int64_t)k)
        g->travelling = -1;
    run->state = SPAN_IDLE;
    land(g, k);
    if (!g->fused && (status = postprocess(z, span, run)) != ZDS_OK)
        return status;
    run->accumulated = true;
    if (z->wish.stage > 0 || is_alone(z))
        return ZDS_OK;
    /* Every rank of stage 0 updates everything: it gets the others' parts too. */
    peers *p = z->with.peers;
    zds_coll gather = {.struct_size = sizeof gather,
                       .tag = (uint64_t)k << 8 | 2,
                       .what = "gathering gradients",
                       .src = bufref_at(part_of(z, span), 0),
                       .dst = bufref_at(in_full(z, span->grad_first), 0),
                       .count = span->part,
                       .src_dtype = z->wish.accum_dtype,
                       .dst_dtype = z->wish.accum_dtype,
                       .stream = z->queue};
    services_clear(p->services);
    status = p->ops->all_gather(p->self, &gather, &run->events[0]);
    return status ? peers_failed(p, status, "gathering gradients") : ZDS_OK;
}

zds_status grads_open(zero *z, uint32_t k)
{
    grads_part *g = &z->grads;
    span_run *run = &g->spans[k];
    if (run->state == SPAN_OPEN || !g->buffered)
        return ZDS_OK;
    const layout_span *span = &z->lay->spans[k];
    /* Where gradients are kept whole the buffer was copied out, and nothing reads it. */
    for (uint32_t i = 0; i < g->in_flight_count;) {
        const layout_span *other = &z->lay->spans[g->in_flight[i]];
        if (other->buffer_first >= span->buffer_first + span->count ||
            span->buffer_first >= other->buffer_first + other->count) {
            i++;
            continue;
        }
        zds_status status = finish(z, g->in_flight[i]); /* another takes its place in the list */
        if (status)
            return status;
    }
    run->state = SPAN_OPEN;
    return ZDS_OK;
}

/* === beginning one === */

/* Zeros for parameters of a span that this rank has nothing for, and in the gaps between
 * parameters. */
static zds_status fill_missing(zero *z, const layout_span *span)
{
    bufref base = written_at(z, span);
    uint64_t filled = 0;
    zds_status status = ZDS_OK;
    for (uint32_t i = 0; !status && i <= span->param_count; i++) {
        bool end = i == span->param_count;
        uint32_t param = end ? 0 : span->params[i];
        uint64_t first = end ? span->count : z->lay->places[param].first;
        uint64_t numel = end ? 0 : z->with.model->params[param].numel;
        if (z->grads.buffered)
            status = zero_clear(z, bufref_moved(base, filled), first - filled);
        if (!status && !end && !z->grads.written[param])
            status = zero_clear(z, bufref_moved(base, first), numel);
        filled = first + numel;
    }
    return status;
}

static zds_status prepare_travel(zero *z, uint32_t k)
{
    grads_part *g = &z->grads;
    const layout_span *span = &z->lay->spans[k];
    bufref from = gathered_at(z, span);
    zds_status status = ZDS_OK;
    if (g->staged) {
        if (g->travelling >= 0)
            status = finish(z, (uint32_t)g->travelling);
        if (!status)
            status = zero_convert(z, source_of(z, span), from, span->count);
        if (status)
            return status;
        g->travelling = k;
        from = source_of(z, span);
    }
    if (!g->fused && z->wish.prescale != 1)
        status = zero_accumulate(z, from, from, z->wish.prescale, false, span->count);
    return status;
}

/* What the plugin does besides reducing. */
static void fuse(zero *z, span_run *run)
{
    run->fused = (zds_fused){.struct_size = sizeof run->fused,
                             .prescale = z->wish.prescale,
                             .postscale = z->wish.postscale,
                             .accumulate = z->grads.in_parts && run->accumulated};
    run->fused_away = run->fused;
    if (z->boundary) {
        run->fused.segments = run->segments;
        run->fused.segment_stride = sizeof *run->segments;
        run->fused.segment_count = run->segment_count;
        run->fused.chunk_sums = run->chunk_sums;
        run->fused.non_finite = &run->non_finite;
    }
}

/* Parameters that are not cut: each owner gets the sum of its own. */
static zds_status reduce_to_owners(zero *z, uint32_t k, zds_coll coll)
{
    const peers *p = z->with.peers;
    const layout_span *span = &z->lay->spans[k];
    span_run *run = &z->grads.spans[k];
    bufref source = source_of(z, span);
    zds_status status = p->ops->group_begin ? p->ops->group_begin(p->self) : ZDS_OK;
    size_t i = 0;
    for (uint32_t r = 0; !status && r < z->lay->world_size; r++) {
        bool mine = r == (uint32_t)p->rank;
        void *from = bufref_element(source, layout_part_first(span, r));
        coll.count = layout_part_count(span, r);
        if (!coll.count)
            continue;
        coll.peer = (int32_t)r;
        coll.src = from;
        coll.dst = !mine ? NULL : z->grads.fused ? bufref_at(part_of(z, span), 0) : from;
        if (z->grads.fused)
            coll.fused = mine ? &run->fused : &run->fused_away;
        status = p->ops->reduce(p->self, &coll, &run->events[i++]);
    }
    if (!status && p->ops->group_end)
        status = p->ops->group_end(p->self);
    return status;
}

static zds_status reduce(zero *z, uint32_t k)
{
    grads_part *g = &z->grads;
    peers *p = z->with.peers;
    const layout_span *span = &z->lay->spans[k];
    span_run *run = &g->spans[k];
    zds_status status = prepare_travel(z, k);
    if (status)
        return status;
    bufref source = source_of(z, span);
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = (uint64_t)k << 8 | 1,
                     .what = run->what,
                     .src = bufref_at(source, 0),
                     .src_dtype = source.dtype,
                     .dst_dtype = g->fused ? z->wish.accum_dtype : source.dtype,
                     .count = span->part,
                     .op = ZDS_SUM,
                     .stream = z->queue};
    services_clear(p->services);
    run->non_finite = 0;
    if (g->fused)
        fuse(z, run);
    if (span->parts) {
        status = reduce_to_owners(z, k, coll);
    } else if (g->fused) {
        coll.fused = &run->fused;
        coll.dst = bufref_at(part_of(z, span), 0);
        status = p->ops->reduce_scatter(p->self, &coll, &run->events[0]);
    } else if (z->wish.reduce_scatter) {
        coll.dst = bufref_element(source, (uint64_t)p->rank * span->part);
        status = p->ops->reduce_scatter(p->self, &coll, &run->events[0]);
    } else {
        coll.dst = bufref_at(source, 0);
        coll.count = span->count;
        status = p->ops->all_reduce(p->self, &coll, &run->events[0]);
    }
    if (status)
        return peers_failed(p, status, run->what);
    run->state = SPAN_REDUCING;
    if (g->in_parts)
        g->in_flight[g->in_flight_count++] = k;
    return z->wish.overlap ? ZDS_OK : finish(z, k);
}

/* The norm of a span's gradient that stays this rank's own: shares of each parameter, in order. */
static zds_status own_statistics(zero *z, uint32_t k)
{
    enum { SHARE = 64 }; /* chunks whose squares are added by themselves */
    const layout_span *span = &z->lay->spans[k];
    span_run *run = &z->grads.spans[k];
    double *sums = z->grads.own_sums;
    zds_status status = ZDS_OK;
    run->own_sum_squares = 0;
    run->non_finite = 0;
    for (uint32_t i = 0; !status && i < span->param_count; i++) {
        uint32_t param = span->params[i];
        const zds_segment all = {.count = z->with.model->params[param].numel};
        uint64_t bad = 0, chunks = (all.count + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK;
        status = grads_sums(z, in_full(z, layout_grad_at(z->lay, param)), &all, 1, sums, &bad);
        for (uint64_t first = 0; !status && first < chunks; first += SHARE) {
            double share = 0;
            for (uint64_t c = first; c < chunks && c < first + SHARE; c++)
                share += sums[c];
            run->own_sum_squares += share;
        }
        run->non_finite += bad;
    }
    return status;
}

/* All modules of a span are reported: its gradient of this micro step is whole. */
static zds_status span_done(zero *z, uint32_t k)
{
    grads_part *g = &z->grads;
    span_run *run = &g->spans[k];
    const layout_span *span = &z->lay->spans[k];
    bool reduces = g->in_parts || z->boundary;
    bool any = false;
    for (uint32_t i = 0; i < span->param_count; i++)
        any |= g->written[span->params[i]];
    zds_status status = ZDS_OK;
    if (g->buffered && (any || reduces)) {
        status = grads_open(z, k);
        if (!status)
            status = fill_missing(z, span);
        /* Whole gradients that accumulate in another dtype: this micro step's are added. */
        if (!status && !g->in_parts) {
            status = zero_accumulate(z, in_full(z, span->grad_first), written_at(z, span), 1,
                                     run->accumulated, span->count);
            run->accumulated = true;
        }
        for (uint32_t i = 0; i < span->param_count; i++) /* the next micro step overwrites */
            g->written[span->params[i]] = false;
    } else if (reduces) {
        status = fill_missing(z, span);
    }
    if (run->state == SPAN_OPEN)
        run->state = SPAN_IDLE;
    if (!status && reduces && z->local)
        status = own_statistics(z, k);
    return !status && reduces && span->count && !z->local ? reduce(z, k) : status;
}

/* === the calls === */

void zero_micro_begin(zero *z, bool boundary, bool local)
{
    z->boundary = boundary;
    z->local = local;
    for (uint32_t k = 0; k < z->lay->span_count; k++)
        z->grads.spans[k].waiting = z->lay->spans[k].module_count;
}

void zero_grads_written(zero *z, uint32_t module)
{
    module_use *use = &z->params.modules[module];
    for (uint32_t i = 0; i < use->slot_count; i++) {
        uint32_t param = use->slots[i].param;
        if (z->with.params[param].trainable && !use->none[i])
            z->grads.written[param] = z->grads.present[param] = true;
        use->slots[i].grad = NULL;
    }
}

zds_status zero_module_done(zero *z, uint32_t module)
{
    if (z->lay->spans_of[module] == LAYOUT_NONE)
        return ZDS_OK;
    uint32_t first = (uint32_t)z->lay->spans_of[module], k = first;
    while (k + 1 < z->lay->span_count && layout_has_sibling(z->lay, k + 1))
        k++;
    for (;; k--) {
        span_run *run = &z->grads.spans[k];
        bool done = layout_is_trained(&z->lay->spans[k]) && (!run->waiting || !--run->waiting);
        zds_status status = done ? span_done(z, k) : ZDS_OK;
        if (status || k == first)
            return status;
    }
}

zds_status zero_reduce(zero *z)
{
    for (uint32_t k = z->lay->span_count; k-- > 0;) {
        zds_status status = finish(z, k);
        if (status)
            return status;
    }
    for (uint32_t k = z->lay->span_count; k-- > 0;) {
        zds_status status = wait_all(z, k, "gathering gradients");
        if (status)
            return status;
    }
    return ZDS_OK;
}

void zero_reset(zero *z)
{
    for (uint32_t i = 0; i < z->with.model->param_count; i++)
        z->grads.written[i] = z->grads.present[i] = false;
    for (uint32_t k = 0; k < z->lay->span_count; k++)
        z->grads.spans[k].accumulated = false;
    z->boundary = false;
}
