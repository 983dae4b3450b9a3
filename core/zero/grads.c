/* Gradients on their way from backward to the owners' parts.
 *
 * Callers write either where gradients are added up (`full`) or into the grad buffers, of which a
 * span occupies its own from its first use in a backward until it is reduced. Spans are reduced
 * last first, whatever a rank reports, so all ranks issue the same operations. */
#include "zero/parts.h"

/* === where a gradient is === */

static const span_run *run_of(const zero *z, const layout_span *span)
{
    return &z->grads.spans[span - z->lay->spans];
}

/* Where a span's is that is kept whole. */
static bufref in_full(const zero *z, const layout_span *span)
{
    return (bufref){&z->grads.full.slab, run_of(z, span)->full_at, zero_accum_dtype(z, span)};
}

static bufref in_shard(const zero *z, const layout_span *span)
{
    return (bufref){&z->grads.shard.slab, run_of(z, span)->shard_at, zero_accum_dtype(z, span)};
}

/* From an element's place on. */
static bufref in_room(const zero *z, const slab *s, const layout_span *span, uint64_t first)
{
    return (bufref){s, first * zds_dtype_size(z->wish.param_dtype), zero_dtype(z, span)};
}

/* Of a span, where backward writes it. */
static bufref written_at(const zero *z, const layout_span *span)
{
    const grads_part *g = &z->grads;
    if (!grads_buffered(z, span))
        return in_full(z, span);
    return run_of(z, span)->spare ? in_room(z, &g->spare, span, span->param_first)
                                  : in_room(z, &g->buffers.slab, span, span->buffer_first);
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
    return z->grads.in_parts ? bufref_moved(in_shard(z, span), own->part_first)
                             : bufref_moved(in_full(z, span), place->first + own->param_first);
}

bufref grads_whole(const zero *z, uint32_t param)
{
    const layout_place *place = &z->lay->places[param];
    return bufref_moved(in_full(z, &z->lay->spans[place->span]), place->first);
}

/* Where this rank's part of a span is kept once reduced. */
static bufref part_of(const zero *z, const layout_span *span)
{
    return z->grads.in_parts ? in_shard(z, span)
                             : bufref_moved(in_full(z, span),
                                            layout_part_first(span, (uint32_t)z->with.peers->rank));
}

/* What is reduced of a span, before a copy of it travels. */
static bufref gathered_at(const zero *z, const layout_span *span)
{
    return z->grads.in_parts ? in_room(z, &z->grads.buffers.slab, span, span->buffer_first)
                             : in_full(z, span);
}

/* What travels. */
static bufref source_of(const zero *z, const layout_span *span)
{
    bool in_parts = z->grads.in_parts;
    return grads_staged(z, in_parts, span)
               ? (bufref){&z->grads.travel.slab, 0, grads_travel_dtype(z, in_parts, span)}
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

static void leave_buffers(grads_part *g, uint32_t k)
{
    for (uint32_t i = 0; i < g->occupied_count; i++)
        if (g->occupied[i] == k) {
            g->occupied[i] = g->occupied[--g->occupied_count];
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
    if (quantised_reduces(z, span))
        status = quantised_take(z, (uint32_t)(span - z->lay->spans), to,
                                z->grads.in_parts && run->accumulated);
    else if (from.slab != to.slab || from.offset != to.offset || z->wish.postscale != 1)
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
    const bool as_integers = quantised_reduces(z, span);
    zds_status status = as_integers ? quantised_wait(z, k) : wait_all(z, k, run->what);
    if (status)
        return status;
    if (g->travelling == (int64_t)k)
        g->travelling = -1;
    run->state = SPAN_IDLE;
    leave_buffers(g, k);
    if ((!g->fused || as_integers) && (status = postprocess(z, span, run)) != ZDS_OK)
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
                       .dst = bufref_at(in_full(z, span), 0),
                       .count = span->part,
                       .src_dtype = zero_accum_dtype(z, span),
                       .dst_dtype = zero_accum_dtype(z, span),
                       .stream = z->wire};
    status = z->wire ? zero_follow(z, z->wire, z->queue) : ZDS_OK;
    return status ? status
                  : peers_issue(p, p->ops->all_gather, &gather, gather.what, &run->events[0]);
}

zds_status grads_await(zero *z, uint32_t k)
{
    zds_status status = finish(z, k);
    return status ? status : wait_all(z, k, "gathering gradients");
}

/* Buffers have room for what backward goes through module by module. Whoever holds more has another
 * memory of all gradients from now on, but where ranks keep only parts of them. */
static zds_status take_spare(zero *z, const layout_span *span, const layout_span *other)
{
    const model_module *modules = z->with.model->modules;
    if (z->grads.in_parts)
        return failure_set(z->with.failure, ZDS_ERR_UNSUPPORTED,
                           "there is no room for gradients of module %s beside those of %s, which "
                           "is acquired for backward: at stage %d they pass through buffers; "
                           "report %s by zds_grad_ready first, or use stage 0 or 1",
                           modules[span->first_module].name, modules[other->first_module].name,
                           z->wish.stage, modules[other->first_module].name);
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = zero_alloc(z->with.tier, &z->grads.spare, "gradients",
                                   z->lay->trained * zds_dtype_size(z->wish.param_dtype), &error);
    if (status)
        failure_set(z->with.failure, status, "module %s acquired for backward while %s is: %s",
                    modules[span->first_module].name, modules[other->first_module].name,
                    error.text);
    zds_error_clear(&error);
    return status;
}

zds_status grads_open(zero *z, uint32_t k)
{
    grads_part *g = &z->grads;
    span_run *run = &g->spans[k];
    const layout_span *span = &z->lay->spans[k];
    if (run->state == SPAN_OPEN || !grads_buffered(z, span) || !span->count)
        return ZDS_OK;
    for (uint32_t i = 0; i < g->occupied_count && !g->spare.tier;) {
        const layout_span *other = &z->lay->spans[g->occupied[i]];
        zds_status status = ZDS_OK;
        if (other->buffer_first >= span->buffer_first + layout_room(span, span->count) ||
            span->buffer_first >= other->buffer_first + layout_room(other, other->count))
            i++;
        else if (g->spans[g->occupied[i]].state == SPAN_OPEN)
            status = take_spare(z, span, other);
        else
            status = finish(z, g->occupied[i]); /* another takes its place in the list */
        if (status)
            return status;
    }
    run->state = SPAN_OPEN;
    run->spare = g->spare.tier != NULL;
    if (!run->spare)
        g->occupied[g->occupied_count++] = k;
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
        if (grads_buffered(z, span))
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
    if (grads_staged(z, g->in_parts, span)) {
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
    peers *p = z->with.peers;
    const layout_span *span = &z->lay->spans[k];
    span_run *run = &z->grads.spans[k];
    bufref source = source_of(z, span);
    zds_status status = peers_enter(p, run->what);
    if (status)
        return status;
    if (p->ops->group_begin)
        status = p->ops->group_begin(p->self);
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
    while (i-- > 0)
        peers_keep(p, run->events[i]);
    return peers_leave(p, status, run->what);
}

/* There is one place for integers, as for a copy that travels. */
static zds_status reduce_as_integers(zero *z, uint32_t k)
{
    grads_part *g = &z->grads;
    zds_status status = g->travelling >= 0 ? finish(z, (uint32_t)g->travelling) : ZDS_OK;
    if (!status)
        status = quantised_reduce(z, k, gathered_at(z, &z->lay->spans[k]));
    if (!status)
        g->travelling = k;
    return status;
}

static zds_status reduce_as_they_are(zero *z, uint32_t k)
{
    grads_part *g = &z->grads;
    peers *p = z->with.peers;
    const layout_span *span = &z->lay->spans[k];
    span_run *run = &g->spans[k];
    zds_status status = prepare_travel(z, k);
    if (!status && z->wire)
        status = zero_follow(z, z->wire, z->queue);
    if (status)
        return status;
    bufref source = source_of(z, span);
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = (uint64_t)k << 8 | 1,
                     .what = run->what,
                     .src = bufref_at(source, 0),
                     .src_dtype = source.dtype,
                     .dst_dtype = g->fused ? zero_accum_dtype(z, span) : source.dtype,
                     .count = span->part,
                     .op = ZDS_SUM,
                     .stream = z->wire};
    run->non_finite = 0;
    if (g->fused)
        fuse(z, run);
    if (span->parts) {
        status = reduce_to_owners(z, k, coll);
    } else if (g->fused) {
        coll.fused = &run->fused;
        coll.dst = bufref_at(part_of(z, span), 0);
        status = peers_issue(p, p->ops->reduce_scatter, &coll, run->what, &run->events[0]);
    } else if (z->wish.reduce_scatter) {
        coll.dst = bufref_element(source, (uint64_t)p->rank * span->part);
        status = peers_issue(p, p->ops->reduce_scatter, &coll, run->what, &run->events[0]);
    } else {
        coll.dst = bufref_at(source, 0);
        coll.count = span->count;
        status = peers_issue(p, p->ops->all_reduce, &coll, run->what, &run->events[0]);
    }
    return status;
}

static zds_status reduce(zero *z, uint32_t k)
{
    grads_part *g = &z->grads;
    zds_status status = quantised_reduces(z, &z->lay->spans[k]) ? reduce_as_integers(z, k)
                                                                : reduce_as_they_are(z, k);
    if (!status && z->overlap.on)
        status = presence_share(z, k);
    if (status)
        return status;
    g->spans[k].state = SPAN_REDUCING;
    /* What follows on a reduction, the second half of stage 0 or an update, begins once it is over:
     * for all but the last span while backward goes on. */
    int64_t before = z->wish.overlap ? g->last : k;
    g->last = k;
    if (before < 0 || !(z->overlap.on || z->wish.stage == 0 || !z->wish.overlap))
        return ZDS_OK;
    return z->overlap.on ? overlap_advance(z, (uint32_t)before) : finish(z, (uint32_t)before);
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
        status = grads_sums(z, grads_whole(z, param), &all, 1, sums, &bad);
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
    if (span->count && grads_buffered(z, span) && (any || reduces)) {
        status = grads_open(z, k);
        if (!status)
            status = fill_missing(z, span);
        /* Whole gradients that accumulate in another dtype: this micro step's are added. */
        if (!status && !g->in_parts) {
            status = zero_accumulate(z, in_full(z, span), written_at(z, span), 1, run->accumulated,
                                     span->count);
            run->accumulated = true;
        }
        for (uint32_t i = 0; i < span->param_count; i++) /* the next micro step overwrites */
            g->written[span->params[i]] = false;
    } else if (reduces) {
        status = fill_missing(z, span);
    }
    if (run->state == SPAN_OPEN)
        run->state = SPAN_IDLE;
    if (!g->in_parts) /* it was copied out, and nothing reads the buffer */
        leave_buffers(g, k);
    if (!status && reduces && z->local)
        status = own_statistics(z, k);
    return !status && reduces && span->count && !z->local ? reduce(z, k) : status;
}

/* === the calls === */

void zero_micro_begin(zero *z, bool boundary, bool local)
{
    z->boundary = boundary;
    z->local = local;
    z->grads.last = -1;
    residency_begin(z);
    for (uint32_t k = 0; k < z->lay->span_count; k++)
        z->grads.spans[k].waiting = z->lay->spans[k].module_count;
}

void zero_grads_written(zero *z, uint32_t module)
{
    module_use *use = &z->params.modules[module];
    for (uint32_t i = 0; i < use->slot_count; i++) {
        uint32_t param = use->slots[i].param;
        if (!use->slots[i].grad)
            continue;
        if (!use->none[i])
            z->grads.written[param] = z->grads.present[param] = true;
        z->grads.held[param]--;
        use->slots[i].grad = NULL;
    }
}

/* The module's own spans: from *first to what is returned. It has some. */
static uint32_t last_span(const zero *z, uint32_t module, uint32_t *first)
{
    uint32_t k = *first = (uint32_t)z->lay->spans_of[module];
    while (k + 1 < z->lay->span_count && layout_has_sibling(z->lay, k + 1))
        k++;
    return k;
}

zds_status zero_pass_over(zero *z, uint32_t module)
{
    zds_status status = ZDS_OK;
    if (!z->grads.in_parts || z->lay->spans_of[module] == LAYOUT_NONE)
        return ZDS_OK;
    uint32_t first, last = last_span(z, module, &first);
    for (uint32_t k = first; !status && k <= last; k++)
        if (layout_is_trained(&z->lay->spans[k]))
            status = grads_open(z, k);
    return status;
}

zds_status zero_module_done(zero *z, uint32_t module)
{
    if (module == 0)
        residency_end(z);
    if (z->lay->spans_of[module] == LAYOUT_NONE)
        return ZDS_OK;
    uint32_t first, k = last_span(z, module, &first);
    for (;; k--) {
        span_run *run = &z->grads.spans[k];
        bool done = layout_is_trained(&z->lay->spans[k]) && !--run->waiting;
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
    return z->overlap.on ? overlap_advance(z, 0) : ZDS_OK;
}

void zero_reset(zero *z)
{
    for (uint32_t i = 0; i < z->with.model->param_count; i++)
        z->grads.written[i] = z->grads.present[i] = false;
    for (uint32_t k = 0; k < z->lay->span_count; k++)
        z->grads.spans[k].accumulated = false;
    z->boundary = z->overlap.on = false;
}
