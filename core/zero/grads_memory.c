/* What memory gradients have: in which layout, whole or in parts, and in which buffers. */
#include <stdlib.h>

#include "zero/parts.h"

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
    bool adds_wide =
        g->fused && g->comm_dtype == ZDS_F32 && ops->reduce_dtypes & ZDS_DTYPE_BIT(source);
    g->staged = g->comm_dtype != source && !adds_wide;
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
    uint64_t most = zero_any_memory(z) ? l->shard : layout_largest_shard(l); /* as ranks know it */
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
    tier_free(&g->spare);
    peers_free(z->with.peers, &g->full);
}

zds_status zero_accumulate_in(zero *z, zds_dtype dtype)
{
    static const char beginning[] = "the first micro step of several (zds_micro_begin)";
    zds_error error = ZDS_ERROR_INIT;
    peers *p = z->with.peers;
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
    for (uint32_t k = 0; !status && k < z->lay->span_count; k++)
        status = span_create(z, k, error);
    return status ? status : sums_create(z, error);
}

void grads_destroy(zero *z)
{
    grads_part *g = &z->grads;
    for (uint32_t k = 0; g->spans && k < z->lay->span_count; k++) {
        for (size_t i = 0; i < g->spans[k].event_count; i++)
            peers_drop(z->with.peers, &g->spans[k].events[i]);
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
