/* How all ranks come to have what the owners have written in a step.
 *
 * Where parameters are the node's nothing moves: each rank counts the spans whose part it has
 * written, in an epoch a step, and whoever acquires a module waits for its spans' counters. That
 * needs nothing of the others but that they have written, so that one rank alone may evaluate. An
 * owner writes only when nobody reads any more: it is in a step, after the exchange of norms, which
 * a rank takes part in once it has used everything. Else spans are gathered, meanwhile where
 * something moves them. Spans in parts are gathered when they are used (residency.c). */
#include <stdlib.h>

#include "zero/parts.h"

static const char publishing[] = "publishing parameters";

static bool is_needed(const zero *z)
{
    return z->wish.stage > 0 && !is_alone(z);
}

static bool is_gathered(const zero *z)
{
    return z->params.pages != PAGES_NODE;
}

zds_status publish_create(zero *z, zds_error *error)
{
    publish_part *b = &z->publish;
    uint32_t spans = z->lay->span_count;
    b->spans = calloc(spans + (size_t)1, sizeof *b->spans);
    if (!b->spans)
        return zero_no_memory(error, "publishing", 0);
    if (!is_needed(z))
        return ZDS_OK;
    for (uint32_t k = 0; is_gathered(z) && k < spans; k++) {
        size_t room = z->lay->spans[k].parts ? z->lay->world_size : 1;
        b->spans[k].events = calloc(room, sizeof(zds_event *));
        if (!b->spans[k].events)
            return zero_no_memory(error, "publishing", 0);
        b->spans[k].event_count = room;
    }
    peers *p = z->with.peers;
    return !is_gathered(z) && spans ? peers_counters_open(p, &b->counters, spans, error) : ZDS_OK;
}

void publish_destroy(zero *z)
{
    publish_part *b = &z->publish;
    peers *p = z->with.peers;
    for (uint32_t k = 0; b->spans && k < z->lay->span_count; k++) {
        for (size_t i = 0; i < b->spans[k].event_count; i++)
            peers_drop(p, &b->spans[k].events[i]);
        free(b->spans[k].events);
    }
    peers_counters_close(p, &b->counters);
    free(b->spans);
}

/* === by the owner === */

static void begin(zero *z, uint32_t k)
{
    span_publish *s = &z->publish.spans[k];
    const layout_span *span = &z->lay->spans[k];
    s->counted = false;
    s->unwritten = 0;
    s->pending = is_needed(z) && layout_is_trained(span) && !params_in_parts(z, span);
    s->epoch += s->pending;
}

zds_status publish_begin(zero *z)
{
    zds_status status = publish_await_all(z);
    for (uint32_t k = 0; k < z->lay->span_count; k++)
        begin(z, k);
    return status ? status : residency_forget(z, false);
}

zds_status publish_begin_span(zero *z, uint32_t k)
{
    zds_status status = publish_await(z, k);
    begin(z, k);
    return status ? status : residency_forget_span(z, k);
}

void publish_expect(zero *z, uint32_t span, uint32_t tiles)
{
    z->publish.spans[span].unwritten += tiles;
}

void publish_wrote(zero *z, uint32_t span, uint32_t tiles)
{
    span_publish *s = &z->publish.spans[span];
    if (z->publish.counters.there && atomic_fetch_sub(&s->unwritten, tiles) == tiles)
        s->counted = peers_try_count(z->with.peers, &z->publish.counters, span);
}

/* This rank's part, where peers read it: in its place, where it does not rest here. */
static bufref own_part(const zero *z, uint32_t k)
{
    const layout_span *span = &z->lay->spans[k];
    return z->params.away[k] ? bufref_moved(params_of_span(z, span),
                                            layout_part_first(span, (uint32_t)z->with.peers->rank))
                             : params_own_part(z, span);
}

/* What is asked of the plugin for one span: of each rank's part, to where the whole is. */
static zds_coll gathering(const zero *z, uint32_t k, const char *doing)
{
    const layout_span *span = &z->lay->spans[k];
    zds_dtype dtype = zero_dtype(z, span);
    return (zds_coll){.struct_size = sizeof(zds_coll),
                      .tag = (uint64_t)k << 8 | 4,
                      .what = doing,
                      .src = bufref_at(own_part(z, k), 0),
                      .dst = bufref_at(params_of_span(z, span), 0),
                      .count = span->part,
                      .src_dtype = dtype,
                      .dst_dtype = dtype,
                      .stream = z->wire};
}

/* Parameters that are not cut, from each owner to all. */
static zds_status gather_owners(zero *z, uint32_t k, zds_coll coll)
{
    peers *p = z->with.peers;
    const layout_span *span = &z->lay->spans[k];
    char *base = coll.dst;
    size_t used = 0;
    zds_status status = ZDS_OK;
    for (uint32_t r = 0; !status && r < z->lay->world_size; r++) {
        coll.count = layout_part_count(span, r);
        coll.peer = (int32_t)r;
        coll.dst = base + layout_part_first(span, r) * zds_dtype_size(coll.src_dtype);
        coll.src = coll.dst;
        if (coll.count)
            status = peers_issue(p, p->ops->broadcast, &coll, coll.what,
                                 &z->publish.spans[k].events[used++]);
    }
    return status;
}

static zds_status gather_span(zero *z, uint32_t k, const char *doing)
{
    peers *p = z->with.peers;
    if (quantised_gathers(z, &z->lay->spans[k]))
        return quantised_gather(z, k, own_part(z, k), doing);
    zds_coll coll = gathering(z, k, doing);
    return z->lay->spans[k].parts
               ? gather_owners(z, k, coll)
               : peers_issue(p, p->ops->all_gather, &coll, doing, &z->publish.spans[k].events[0]);
}

/* An owner sends what is where the whole is to be. */
static zds_status place_own(zero *z, const layout_span *span)
{
    uint32_t rank = (uint32_t)z->with.peers->rank;
    uint64_t count = layout_part_count(span, rank);
    bufref to = bufref_moved(params_of_span(z, span), layout_part_first(span, rank));
    return count ? zero_convert(z, to, params_own_part(z, span), count) : ZDS_OK;
}

/* What rests elsewhere comes into its place, on the wire. */
static zds_status fetch_own(zero *z, uint32_t k)
{
    const layout_span *span = &z->lay->spans[k];
    bufref from = params_own_part(z, span), to = own_part(z, k);
    zds_error error = ZDS_ERROR_INIT;
    const tier_order order = {.stream = z->wire};
    if (!params_part_bytes(z, span)) /* of what is not cut another rank may own all */
        return ZDS_OK;
    return zero_checked(z,
                        tier_copy(tier_in(to.slab, to.offset), tier_in(from.slab, from.offset),
                                  params_part_bytes(z, span), &order,
                                  z->wire ? NULL : &z->live.spans[k].coming, &error),
                        &error);
}

/* Between ranks goes what is there. */
static zds_status await_own(zero *z, uint32_t k)
{
    zds_error error = ZDS_ERROR_INIT;
    return zero_checked(z, tier_wait(z->with.params_tier, &z->live.spans[k].coming, &error),
                        &error);
}

zds_status publish_gather(zero *z, uint32_t k, const char *doing)
{
    const layout_span *span = &z->lay->spans[k];
    bool away = z->params.away[k];
    if (secondary_has(z, k)) {
        z->publish.spans[k].pending = true;
        return secondary_gather(z, k, doing, &z->publish.spans[k].events[0]);
    }
    zds_status status = span->parts && !away ? place_own(z, span) : ZDS_OK;
    if (!status && z->wire)
        status = zero_follow(z, z->wire, z->queue);
    z->publish.spans[k].pending = true;
    if (!status && away)
        status = fetch_own(z, k);
    if (!status && away && !is_alone(z))
        status = await_own(z, k);
    return status || !span->count || is_alone(z) ? status : gather_span(z, k, doing);
}

static zds_status tell(zero *z, uint32_t k)
{
    span_publish *s = &z->publish.spans[k];
    if (!s->pending || s->counted)
        return ZDS_OK;
    s->counted = true;
    if (!is_gathered(z))
        return peers_count(z->with.peers, &z->publish.counters, k, publishing);
    return z->lay->spans[k].count ? gather_span(z, k, publishing) : ZDS_OK;
}

static zds_status follow(zero *z)
{
    return z->wire && is_needed(z) ? zero_follow(z, z->wire, z->queue) : ZDS_OK;
}

zds_status publish_span(zero *z, uint32_t k)
{
    zds_status status = follow(z);
    return status ? status : tell(z, k);
}

zds_status publish_all(zero *z)
{
    bool alone = !is_needed(z) || peers_move_alone(z->with.peers);
    zds_status status = follow(z);
    for (uint32_t k = 0; !status && k < z->lay->span_count; k++)
        status = tell(z, k);
    if (!status && alone)
        status = residency_look_ahead(z);
    /* Whoever computes without calling zds would keep the others waiting. */
    return status || alone || !is_gathered(z) ? status : publish_await_all(z);
}

/* === by the user === */

zds_status publish_await(zero *z, uint32_t k)
{
    publish_part *b = &z->publish;
    span_publish *s = &b->spans[k];
    peers *p = z->with.peers;
    if (!s->pending)
        return ZDS_OK;
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && i < s->event_count; i++)
        status = peers_wait(p, &s->events[i], z->live.spans ? z->live.spans[k].what : publishing);
    if (!status)
        status = quantised_await(z, k);
    if (!status && params_in_parts(z, &z->lay->spans[k]) && z->params.away[k])
        status = z->wire ? zero_follow(z, z->queue, z->wire) : await_own(z, k);
    if (!status && params_in_parts(z, &z->lay->spans[k]))
        status = secondary_keep(z, k);
    if (!status && b->counters.there)
        status =
            peers_count_wait(p, &b->counters, k, s->epoch * (uint64_t)p->world_size, publishing);
    s->pending = status != ZDS_OK;
    return status;
}

zds_status publish_await_all(zero *z)
{
    zds_status status = ZDS_OK;
    for (uint32_t k = 0; !status && k < z->lay->span_count; k++)
        status = publish_await(z, k);
    return status;
}
