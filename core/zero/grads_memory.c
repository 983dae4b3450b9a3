/* What memory gradients have: in which layout, whole or in parts, and in which buffers. */
#include <stdlib.h>

#include "zero/parts.h"

static zds_dtype source_dtype(const zero *z, bool in_parts, const layout_span *span)
{
    return in_parts ? zero_dtype(z, span) : zero_accum_dtype(z, span);
}

static bool reduces(const zero *z, zds_dtype dtype)
{
    return z->with.peers->ops->reduce_dtypes & ZDS_DTYPE_BIT(dtype);
}

static bool is_fused(const zero *z)
{
    return z->with.peers->ops->flags & ZDS_COMM_FUSED && z->wish.reduce_scatter;
}

zds_dtype grads_travel_dtype(const zero *z, bool in_parts, const layout_span *span)
{
    zds_dtype dtype =
        z->wish.comm_dtype == ZERO_AS_IS ? source_dtype(z, in_parts, span) : z->wish.comm_dtype;
    return reduces(z, dtype) ? dtype : ZDS_F32; /* what every plugin reduces */
}

bool grads_staged(const zero *z, bool in_parts, const layout_span *span)
{
    if (quantised_reduces(z, span))
        return false;
    zds_dtype source = source_dtype(z, in_parts, span),
              dtype = grads_travel_dtype(z, in_parts, span);
    /* Whoever adds up in fp32 gains nothing from travelling as fp32. */
    return dtype != source && !(is_fused(z) && dtype == ZDS_F32 && reduces(z, source));
}

/* Bytes of the copy that travels. */
static uint64_t travel_bytes(const zero *z, const layout *l, bool in_parts)
{
    uint64_t most = 0;
    for (uint32_t k = 0; k < l->span_count; k++) {
        const layout_span *span = &l->spans[k];
        if (!layout_is_trained(span) || !grads_staged(z, in_parts, span))
            continue;
        uint64_t bytes = span->count * zds_dtype_size(grads_travel_dtype(z, in_parts, span));
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* Of so many elements, `wide` of them of wide spans, as they are added up. */
static uint64_t accum_bytes(const zero *z, uint64_t count, uint64_t wide)
{
    return (count - wide) * zds_dtype_size(z->wish.accum_dtype) + wide * sizeof(float);
}

static bool has_buffers(const zero *z, const layout *l, bool in_parts)
{
    return in_parts || (z->wish.accum_dtype != z->wish.param_dtype && l->wide < l->trainable);
}

/* Beside backward a part is used up soon, but by what is updated whole, or on a device's queue. */
static bool may_pass(const zero *z)
{
    for (uint32_t i = 0; i < z->with.model->param_count; i++)
        if (z->with.params[i].needs.whole_tensor)
            return false;
    return z->wish.overlap_step && !z->wish.adds && z->wish.stage >= 2 && zero_is_here(z);
}

/* Of a rank's parts of gradients. */
static uint64_t parts_bytes(const zero *z, const layout *l)
{
    uint64_t n = l->world_size, all = accum_bytes(z, l->trainable / n, l->wide / n),
             two = 2 * l->largest / n * sizeof(float);
    return may_pass(z) && two < all ? two : all;
}

/* Bytes of a rank that depend on whether it keeps its parts only: gradients, buffers, and padding
 * of its shard, which masters and states have too. Where ranks own unequal parts, of the mean rank:
 * all must decide alike. */
static uint64_t weigh(const zero *z, const layout *l, bool in_parts)
{
    uint64_t shard = l->trainable / l->world_size;
    uint64_t bytes =
        12 * shard + (in_parts ? parts_bytes(z, l) : accum_bytes(z, l->trainable, l->wide));
    if (has_buffers(z, l, in_parts))
        bytes += l->buffers * zds_dtype_size(z->wish.param_dtype);
    return bytes + travel_bytes(z, l, in_parts);
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
    /* Alone it would be a copy more, which is little where parameters are files. */
    bool copies = !is_alone(z) || (may_pass(z) && zero_params_rest(z));
    if (status || z->wish.stage < 2 || !copies)
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

/* Places the spans' gradients, whole and in the rank's shard; the bytes of both. */
static uint64_t place_whole(zero *z)
{
    uint64_t at = 0;
    for (uint32_t k = 0; k < z->lay->span_count; k++) {
        const layout_span *span = &z->lay->spans[k];
        if (!layout_is_trained(span))
            continue;
        z->grads.spans[k].full_at = at;
        at += span->count * zds_dtype_size(zero_accum_dtype(z, span));
    }
    return at;
}

static uint64_t part_bytes(const zero *z, const layout_span *span, uint32_t rank)
{
    return layout_part_count(span, rank) * zds_dtype_size(zero_accum_dtype(z, span));
}

/* One after the other; passing ones where that of the last but one was, if that is less. */
static uint64_t shard_bytes(const zero *z, uint32_t rank, span_run *runs)
{
    uint64_t at = 0, largest = 0, all = 0;
    for (uint32_t k = 0; k < z->lay->span_count; k++) {
        const layout_span *span = &z->lay->spans[k];
        uint64_t bytes = layout_is_trained(span) ? part_bytes(z, span, rank) : 0;
        largest = bytes > largest ? bytes : largest;
        all += bytes;
    }
    bool pass = z->grads.passing && 2 * largest < all;
    for (uint32_t k = 0, n = 0; k < z->lay->span_count; k++) {
        const layout_span *span = &z->lay->spans[k];
        if (!layout_is_trained(span))
            continue;
        if (runs)
            runs[k].shard_at = pass ? n % 2 * largest : at;
        n += span->count > 0;
        at += part_bytes(z, span, rank);
    }
    return pass ? 2 * largest : all;
}

static zds_status take_memory(zero *z, zds_error *error)
{
    const zero_wishes *wish = &z->wish;
    const layout *l = z->lay;
    grads_part *g = &z->grads;
    peers *p = z->with.peers;
    g->passing = g->in_parts && may_pass(z);
    uint64_t whole = place_whole(z), most = shard_bytes(z, (uint32_t)p->rank, g->spans);
    for (uint32_t r = 0; !zero_any_memory(z) && r < l->world_size; r++) { /* as ranks know it */
        uint64_t bytes = shard_bytes(z, r, NULL);
        most = bytes > most ? bytes : most;
    }
    g->fused = is_fused(z);
    zds_status status =
        g->in_parts ? zero_alloc_known(z, z->with.tier, &g->shard, "gradients", most, error)
                    : peers_alloc(p, &g->full, "gradients", whole, ZDS_MEM_SYMMETRIC, error);
    if (!status && has_buffers(z, l, g->in_parts))
        status =
            peers_alloc(p, &g->buffers, "reduce buffers",
                        l->buffers * zds_dtype_size(wish->param_dtype), ZDS_MEM_SYMMETRIC, error);
    uint64_t travel = travel_bytes(z, l, g->in_parts);
    if (!status && travel)
        status = peers_alloc(p, &g->travel, "reduce buffers", travel, ZDS_MEM_SYMMETRIC, error);
    return status;
}

static void free_memory(zero *z)
{
    grads_part *g = &z->grads;
    peers_free(z->with.peers, &g->shard);
    peers_free(z->with.peers, &g->travel);
    peers_free(z->with.peers, &g->buffers);
    tier_free(&g->spare);
    peers_free(z->with.peers, &g->full);
}

zds_status zero_accumulate_in(zero *z, zds_dtype dtype)
{
    static const char beginning[] = "the first micro step of several (zds_micro_begin)";
    zds_error error = ZDS_ERROR_INIT;
    peers *p = z->with.peers;
    bool same = z->wish.accum_dtype == dtype && !z->grads.passing;
    z->wish.adds = true;
    if (same)
        return ZDS_OK;
    const zds_coll coll = {
        .struct_size = sizeof coll, .tag = 13, .what = beginning, .stream = z->wire};
    /* Ranks that do not do it reduce gradients meanwhile, on this link, and are told why. */
    zds_status status = peers_call(p, p->ops->barrier, &coll, beginning);
    if (!status && z->queue)
        status = zero_sync(z); /* a step may still read them */
    if (status)
        return status;
    free_memory(z);
    z->wish.accum_dtype = dtype;
    status = take_memory(z, &error);
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
    g->travelling = g->last = -1;
    g->spans = calloc(spans, sizeof *g->spans);
    g->occupied = calloc(spans, sizeof *g->occupied);
    g->written = calloc(params, sizeof *g->written);
    g->present = calloc(params, sizeof *g->present);
    g->held = calloc(params, sizeof *g->held);
    if (!g->spans || !g->occupied || !g->written || !g->present || !g->held)
        return zero_no_memory(error, "spans", 0);
    zds_status status = take_memory(z, error);
    uint64_t before = 0;
    for (uint32_t k = 0; !status && k < z->lay->span_count; k++) {
        g->spans[k].presence_at = before;
        before += z->lay->spans[k].param_count;
        status = span_create(z, k, error);
    }
    return status ? status : sums_create(z, error);
}

void grads_destroy(zero *z)
{
    grads_part *g = &z->grads;
    for (uint32_t k = 0; g->spans && k < z->lay->span_count; k++) {
        for (size_t i = 0; i < g->spans[k].event_count; i++)
            peers_drop(z->with.peers, &g->spans[k].events[i]);
        peers_drop(z->with.control, &g->spans[k].presence);
        free(g->spans[k].segments);
        free(g->spans[k].events);
        free(g->spans[k].what);
    }
    free_memory(z);
    tier_free(&g->sums);
    free(g->spans);
    free(g->occupied);
    free(g->written);
    free(g->present);
    free(g->held);
}
