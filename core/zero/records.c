/* What rests in another memory than the one where the optimizer computes. Of a tile, its master
 * weights and states lie side by side there, as one record. A ring of buffers where it computes
 * goes over the windows: one is read while another is stepped and a third is written. */
#include <stdlib.h>

#include "zero/parts.h"

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

/* Where state s of `count` elements begins in their record; ZDS_MAX_STATES: where the record ends.
 * The master is at its beginning. */
static uint64_t place_in(const zero *z, const piece *p, uint64_t count, uint32_t s)
{
    const zds_param_needs *needs = &z->with.params[p->param].needs;
    uint64_t at = round_up(count * zds_dtype_size(z->wish.master_dtype), 64);
    for (uint32_t i = 0; i < s && i < needs->state_count; i++)
        if (needs->states[i].scope == ZDS_SCOPE_SHARDED)
            at += round_up(state_bytes(&needs->states[i], count), 64);
    return at;
}

static uint64_t record_bytes(const zero *z, const piece *p, uint64_t count)
{
    return round_up(place_in(z, p, count, ZDS_MAX_STATES), z->stream.ring.alignment);
}

/* Of one block of each state that is kept in blocks. */
static uint64_t block_bytes(const zero *z, const piece *p)
{
    const zds_param_needs *needs = &z->with.params[p->param].needs;
    uint64_t bytes = 0;
    for (uint32_t s = 0; s < needs->state_count; s++)
        if (needs->states[s].kind == ZDS_STATE_BLOCK && needs->states[s].scope == ZDS_SCOPE_SHARDED)
            bytes += needs->states[s].bytes;
    return bytes;
}

/* === memory === */

zds_status records_create(zero *z, zds_error *error)
{
    stream_part *t = &z->stream;
    record_ring *r = &t->ring;
    uint64_t total = 0, densest = 0, largest = 0, short_of = 0;
    const zds_offload_info *info = &z->with.states_tier->info;
    r->alignment = info->alignment > 64 ? info->alignment : 64;
    for (uint32_t k = 0; k < t->piece_count; k++) {
        piece *p = &t->pieces[k];
        if (!p->rests)
            continue;
        uint64_t tile = stream_tile(z, p->param), whole = p->count / tile;
        uint64_t full = record_bytes(z, p, tile),
                 last = record_bytes(z, p, p->count - whole * tile);
        p->record = total;
        total += whole * full + (p->count > whole * tile ? last : 0);
        largest = full > largest ? full : largest;
        uint64_t blocks = block_bytes(z, p);
        short_of = blocks > short_of ? blocks : short_of;
        densest = full / tile + 1 > densest ? full / tile + 1 : densest;
    }
    if (!total)
        return ZDS_OK;
    /* Small tiles share a window up to a tile's size, each with a padding of its own, and with a
     * last block that may be short in elements, but not in bytes. */
    uint64_t padding =
        (uint64_t)WINDOW_TILES * ((ZDS_MAX_STATES + 1) * 64 + r->alignment + short_of);
    r->bytes = densest * z->wish.tile + padding;
    r->bytes = round_up(r->bytes > largest ? r->bytes : largest, r->alignment);
    r->bytes = r->bytes < total ? r->bytes : total;
    zds_status status =
        zero_alloc(z->with.states_tier, &r->records, "optimizer states", total, error);
    if (!status)
        status = zero_alloc(z->with.tier, &r->buffers, "offload buffers", RING_BUFFERS * r->bytes,
                            error);
    if (status || z->with.tier->planned)
        return status;
    status = tier_stream_create(z->with.tier, &r->reads, error);
    return status ? status : tier_stream_create(z->with.tier, &r->writes, error);
}

void records_destroy(zero *z)
{
    record_ring *r = &z->stream.ring;
    for (size_t i = 0; i < RING_BUFFERS; i++) {
        zds_event *events[] = {r->read[i], r->written[i], r->waited[i]};
        for (size_t k = 0; k < 3; k++)
            if (events[k])
                events[k]->ops->release(events[k]);
    }
    tier_stream_destroy(z->with.tier, r->reads);
    tier_stream_destroy(z->with.tier, r->writes);
    tier_free(&r->buffers);
    tier_free(&r->records);
}

bufref record_of(const zero *z, const piece *p, int32_t state, uint64_t *at, uint64_t *bytes)
{
    const zds_state_spec spec = stream_spec(z, p->param, state);
    uint64_t tile = stream_tile(z, p->param), full = state_offset(&spec, tile), index = *at / full;
    uint64_t left = p->count - index * tile, elements = left < tile ? left : tile;
    bufref b = {&z->stream.ring.records, p->record + index * record_bytes(z, p, tile), spec.dtype};
    if (state >= 0)
        b.offset += place_in(z, p, elements, (uint32_t)state);
    *at %= full;
    uint64_t here = state_bytes(&spec, elements) - *at;
    *bytes = *bytes < here ? *bytes : here;
    return b;
}

/* === the ring === */

typedef struct moving {
    uint64_t record, at; /* of one tile, among the records and in its buffer */
    uint64_t bytes;
} moving;

static moving moving_of(const zero *z, const window *w, size_t i, size_t slot, uint64_t *used)
{
    const piece *p = w->pieces[i];
    uint64_t tile = stream_tile(z, p->param), first = w->tiles[i].first - p->first;
    moving m = {.record = p->record + first / tile * record_bytes(z, p, tile),
                .at = slot * z->stream.ring.bytes + *used,
                .bytes = record_bytes(z, p, w->tiles[i].count)};
    *used += m.bytes;
    return m;
}

/* The tile's pointers lead into its buffer. */
static void bind_buffer(zero *z, window *w, size_t i, const moving *m)
{
    const piece *p = w->pieces[i];
    const zds_param_needs *needs = &z->with.params[p->param].needs;
    bufref at = {&z->stream.ring.buffers, m->at, ZDS_U8};
    w->tiles[i].master = bufref_at(at, 0);
    for (uint32_t s = 0; s < needs->state_count; s++)
        if (needs->states[s].scope == ZDS_SCOPE_SHARDED &&
            state_bytes(&needs->states[s], w->tiles[i].count))
            w->states[i][s] = bufref_at(at, place_in(z, p, w->tiles[i].count, s));
}

/* The slot's last reading is over, and with it the waiting for what was written before. */
static zds_status free_slot(zero *z, size_t slot)
{
    record_ring *r = &z->stream.ring;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = tier_wait(z->with.tier, &r->read[slot], &error);
    zds_status before = tier_wait(z->with.tier, &r->waited[slot], status ? NULL : &error);
    r->waited[slot] = r->written[slot];
    r->written[slot] = NULL;
    return zero_checked(z, status ? status : before, &error);
}

zds_status records_begin(zero *z)
{
    record_ring *r = &z->stream.ring;
    zds_event *written = NULL;
    zds_status status = zero_follow_event(z, r->reads, r->writes, &written);
    zero_hold(z, written);
    return status;
}

zds_status records_read(zero *z, window *w, bool fresh)
{
    record_ring *r = &z->stream.ring;
    size_t slot = r->turn % RING_BUFFERS;
    uint64_t used = 0;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = free_slot(z, slot);
    const tier_order order = {
        .waits = &r->waited[slot], .wait_count = r->waited[slot] != NULL, .stream = r->reads};
    for (size_t i = 0; !status && i < w->count; i++) {
        if (!w->pieces[i]->rests)
            continue;
        moving m = moving_of(z, w, i, slot, &used);
        w->at[i] = m.at;
        bind_buffer(z, w, i, &m);
        status =
            fresh ? tier_fill(tier_in(&r->buffers, m.at), ZDS_U8, 0, m.bytes, &order, NULL, &error)
                  : tier_copy(tier_in(&r->buffers, m.at), tier_in(&r->records, m.record), m.bytes,
                              &order, NULL, &error);
    }
    status = zero_checked(z, status, &error);
    return status ? status : zero_follow_event(z, z->queue, r->reads, &r->read[slot]);
}

zds_status records_write(zero *z, const window *w)
{
    record_ring *r = &z->stream.ring;
    size_t slot = r->turn++ % RING_BUFFERS;
    uint64_t used = 0;
    zds_error error = ZDS_ERROR_INIT;
    zds_event *stepped = NULL;
    const tier_order order = {.stream = r->writes};
    zds_status status = zero_follow_event(z, r->writes, z->queue, &stepped);
    for (size_t i = 0; !status && i < w->count; i++) {
        if (!w->pieces[i]->rests)
            continue;
        moving m = moving_of(z, w, i, slot, &used);
        status = tier_copy(tier_in(&r->records, m.record), tier_in(&r->buffers, m.at), m.bytes,
                           &order, NULL, &error);
    }
    status = zero_checked(z, status, &error);
    if (!status)
        status = zero_checked(z, tier_record(z->with.tier, r->writes, &r->written[slot], &error),
                              &error);
    zero_hold(z, stepped);
    return status;
}

zds_status records_settle(zero *z)
{
    zds_error error = ZDS_ERROR_INIT;
    return zero_checked(z, tier_sync(z->with.tier, z->stream.ring.writes, &error), &error);
}
