/* What ZeRO does to bytes, wherever they are: by the tier, in the order of the queue. */
#include "zero/parts.h"

zds_status zero_checked(zero *z, zds_status status, zds_error *error)
{
    if (!status)
        return ZDS_OK;
    failure_set(z->with.failure, status, "rank %d: %s", z->with.peers->rank,
                error->text ? error->text : zds_status_name(status));
    zds_error_clear(error);
    return peers_give_up(z->with.peers, status);
}

static tier_end end_of(bufref b)
{
    return tier_in(b.slab, b.offset);
}

static tier_order order_of(const zero *z)
{
    return (tier_order){.stream = z->queue};
}

zds_status zero_convert(zero *z, bufref to, bufref from, uint64_t count)
{
    zds_error error = ZDS_ERROR_INIT;
    tier_order order = order_of(z);
    return zero_checked(
        z,
        tier_convert(end_of(to), to.dtype, end_of(from), from.dtype, count, &order, NULL, &error),
        &error);
}

zds_status zero_accumulate(zero *z, bufref to, bufref from, double scale, bool add, uint64_t count)
{
    zds_error error = ZDS_ERROR_INIT;
    tier_order order = order_of(z);
    return zero_checked(z,
                        tier_accumulate(end_of(to), to.dtype, end_of(from), from.dtype, scale, add,
                                        count, &order, NULL, &error),
                        &error);
}

zds_status zero_fill(zero *z, bufref to, double value, uint64_t count)
{
    zds_error error = ZDS_ERROR_INIT;
    tier_order order = order_of(z);
    return zero_checked(z, tier_fill(end_of(to), to.dtype, value, count, &order, NULL, &error),
                        &error);
}

zds_status zero_clear(zero *z, bufref to, uint64_t count)
{
    return count ? zero_fill(z, to, 0, count) : ZDS_OK;
}

zds_status zero_sync(zero *z)
{
    zds_error error = ZDS_ERROR_INIT;
    return zero_checked(z, tier_sync(z->with.tier, z->queue, &error), &error);
}

static void drop(zds_event *event)
{
    event->ops->release(event);
}

void zero_hold(zero *z, zds_event *event)
{
    size_t kept = 0;
    if (!event)
        return;
    for (size_t i = 0; i < z->held_count; i++) {
        int32_t done = 0;
        zds_event *held = z->held[i];
        if (held->ops->test(held, &done) != ZDS_OK || done)
            drop(held);
        else
            z->held[kept++] = held;
    }
    if (kept == ZERO_HELD) { /* which waits */
        drop(z->held[0]);
        for (size_t i = 1; i < kept; i++)
            z->held[i - 1] = z->held[i];
        kept--;
    }
    z->held[kept++] = event;
    z->held_count = kept;
}

zds_status zero_follow_event(zero *z, const zds_stream *later, const zds_stream *earlier,
                             zds_event **event)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = tier_record(z->with.tier, earlier, event, &error);
    if (!status && *event)
        status = (*event)->ops->stream_wait ? (*event)->ops->stream_wait(*event, later)
                                            : (*event)->ops->wait(*event);
    return zero_checked(z, status, &error);
}

zds_status zero_follow(zero *z, const zds_stream *later, const zds_stream *earlier)
{
    zds_event *event = NULL;
    zds_status status = zero_follow_event(z, later, earlier, &event);
    zero_hold(z, event);
    return status;
}

/* In a file all of what lies there as one, which the other end has room for. */
static uint64_t as_it_lies(bufref b, uint64_t bytes)
{
    uint64_t align = b.slab->tier->info.alignment;
    return b.slab->block.pointer || align < 2 ? bytes : layout_round_up(bytes, align);
}

static zds_status copy(zero *z, tier_end to, tier_end from, uint64_t bytes)
{
    zds_error error = ZDS_ERROR_INIT;
    const slab *s = to.slab ? to.slab : from.slab;
    tier_order order = s->tier->on_device ? order_of(z) : (tier_order){0};
    zds_status status = zero_checked(z, tier_copy(to, from, bytes, &order, NULL, &error), &error);
    return status ? status : zero_sync(z);
}

zds_status zero_fetch(zero *z, void *to, bufref from, uint64_t bytes)
{
    return copy(z, tier_at(to), end_of(from), as_it_lies(from, bytes));
}

zds_status zero_send(zero *z, bufref to, const void *from, uint64_t bytes)
{
    return copy(z, end_of(to), tier_at((void *)(uintptr_t)from), as_it_lies(to, bytes));
}

zds_status grads_sums(zero *z, bufref part, const zds_segment *segments, size_t count,
                      double *chunk_sums, uint64_t *non_finite)
{
    zds_error error = ZDS_ERROR_INIT;
    tier_order order = order_of(z);
    *non_finite = 0;
    if (zero_is_here(z))
        return zero_checked(z,
                            tier_chunk_sums(tier_at(chunk_sums), tier_at(non_finite), end_of(part),
                                            part.dtype, segments, count, &order, NULL, &error),
                            &error);
    bufref bad = bufref_of(&z->grads.sums, 0, ZDS_I64),
           sums = bufref_of(&z->grads.sums, 1, ZDS_F64);
    uint64_t chunks = 0;
    for (size_t s = 0; s < count; s++)
        chunks += (segments[s].count + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK;
    zds_status status = zero_fill(z, bad, 0, 1);
    if (!status)
        status = zero_checked(z,
                              tier_chunk_sums(end_of(sums), end_of(bad), end_of(part), part.dtype,
                                              segments, count, &order, NULL, &error),
                              &error);
    if (!status)
        status = zero_fetch(z, chunk_sums, sums, chunks * sizeof *chunk_sums);
    return status ? status : zero_fetch(z, non_finite, bad, sizeof *non_finite);
}

/* By a view of the memory, which may be any part of a slab; after all that the queue was given. */
static zds_status copy_by_view(zero *z, void *there, void *here, uint64_t bytes, bool in)
{
    zds_error error = ZDS_ERROR_INIT;
    tier_order order = order_of(z);
    slab view;
    zds_status status = tier_adopt(z->with.tier, there, bytes, &view, &error);
    if (status == ZDS_ERR_INVALID) { /* the caller's mistake, which changes nothing */
        failure_set(z->with.failure, status, "%s", error.text ? error.text : "");
        zds_error_clear(&error);
        return status;
    }
    if (status)
        return zero_checked(z, status, &error);
    tier_end far = tier_in(&view, 0), near = tier_at(here);
    status = zero_checked(
        z, tier_copy(in ? far : near, in ? near : far, bytes, &order, NULL, &error), &error);
    if (!status)
        status = zero_sync(z);
    tier_free(&view);
    return status;
}

zds_status zero_copy_in(zero *z, void *to, const void *from, uint64_t bytes)
{
    return copy_by_view(z, to, (void *)(uintptr_t)from, bytes, true);
}

zds_status zero_copy_out(zero *z, void *to, const void *from, uint64_t bytes)
{
    return copy_by_view(z, (void *)(uintptr_t)from, to, bytes, false);
}
