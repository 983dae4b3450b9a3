/* What rests in another memory than the one where the optimizer computes. Of a tile, its master
 * weights and states lie side by side there, as one record. A ring of buffers where it computes
 * goes over loads of windows: one is read while another is stepped and a third is written. On a
 * device a load is a window, and streams keep the order; on the host threads share a load, the
 * tier's events tell when it is there, and each record has a checksum in memory. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdlib.h>
#include <string.h>

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

static uint64_t tiles_of(const zero *z, const piece *p)
{
    uint64_t tile = stream_tile(z, p->param);
    return (p->count + tile - 1) / tile;
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

/* Bytes of all records, which are numbered; *densest of an element, *largest of one, *short_of of a
 * block. */
static uint64_t number_records(zero *z, uint64_t *densest, uint64_t *largest, uint64_t *short_of)
{
    stream_part *t = &z->stream;
    uint64_t total = 0;
    for (uint32_t k = 0; k < t->piece_count; k++) {
        piece *p = &t->pieces[k];
        if (!p->rests)
            continue;
        uint64_t tile = stream_tile(z, p->param), whole = p->count / tile;
        uint64_t full = record_bytes(z, p, tile),
                 last = record_bytes(z, p, p->count - whole * tile), blocks = block_bytes(z, p);
        p->record = total;
        p->sum = t->ring.count;
        t->ring.count += tiles_of(z, p);
        total += whole * full + (p->count > whole * tile ? last : 0);
        *largest = full > *largest ? full : *largest;
        *short_of = blocks > *short_of ? blocks : *short_of;
        *densest = full / tile + 1 > *densest ? full / tile + 1 : *densest;
    }
    return total;
}

static zds_status take_slots(zero *z, zds_error *error)
{
    record_ring *r = &z->stream.ring;
    size_t copies = (size_t)r->load * WINDOW_TILES;
    r->slots = calloc(r->slot_count, sizeof *r->slots);
    for (uint32_t i = 0; r->slots && i < r->slot_count; i++) {
        r->slots[i].reads = calloc(copies, sizeof(zds_event *));
        r->slots[i].writes = calloc(copies, sizeof(zds_event *));
        r->slots[i].waited = calloc(copies, sizeof(zds_event *));
        if (!r->slots[i].reads || !r->slots[i].writes || !r->slots[i].waited)
            return zero_no_memory(error, "offload buffers", 0);
    }
    return r->slots ? ZDS_OK : zero_no_memory(error, "offload buffers", 0);
}

static zds_status take_memory(zero *z, uint64_t total, zds_error *error)
{
    record_ring *r = &z->stream.ring;
    zds_status status =
        zero_alloc(z->with.states_tier, &r->records, "optimizer states", total, error);
    if (!status)
        status = zero_alloc(z->with.tier, &r->buffers, "offload buffers",
                            r->slot_count * r->bytes + r->alignment, error);
    if (status || !zero_is_here(z))
        return status;
    uintptr_t at = (uintptr_t)r->buffers.block.pointer;
    r->first = at ? round_up(at, r->alignment) - at : 0;
    r->sums = ledger_alloc(z->with.ledger, "checksums", r->count * sizeof *r->sums, 0);
    return r->sums || z->with.tier->planned
               ? ZDS_OK
               : zero_no_memory(error, "checksums", r->count * sizeof *r->sums);
}

zds_status records_create(zero *z, zds_error *error)
{
    record_ring *r = &z->stream.ring;
    uint64_t densest = 0, largest = 0, short_of = 0;
    const zds_offload_info *info = &z->with.states_tier->info;
    r->alignment = info->alignment > 64 ? info->alignment : 64;
    r->open = STREAM_NONE;
    uint64_t total = number_records(z, &densest, &largest, &short_of);
    if (!total)
        return ZDS_OK;
    /* Small tiles share a window up to a tile's size, each with a padding of its own, and with a
     * last block that may be short in elements, but not in bytes. */
    uint64_t padding =
        (uint64_t)WINDOW_TILES * ((ZDS_MAX_STATES + 1) * 64 + r->alignment + short_of);
    uint64_t bytes = densest * z->wish.tile + padding;
    r->load = zero_is_here(z) ? LOAD_WINDOWS : 1;
    r->bytes = round_up(r->load * (bytes > largest ? bytes : largest), r->alignment);
    r->bytes = r->bytes < total ? r->bytes : total;
    r->slot_count = z->wish.buffers > 0 ? z->wish.buffers : 1;
    zds_status status = take_memory(z, total, error);
    if (status || z->with.tier->planned)
        return status;
    status = take_slots(z, error);
    if (!status)
        status = tier_stream_create(z->with.tier, &r->reads, error);
    return status ? status : tier_stream_create(z->with.tier, &r->writes, error);
}

static void drop_events(zds_event **events, size_t count)
{
    for (size_t i = 0; events && i < count; i++)
        if (events[i])
            events[i]->ops->release(events[i]);
    free(events);
}

void records_destroy(zero *z)
{
    record_ring *r = &z->stream.ring;
    for (uint32_t i = 0; r->slots && i < r->slot_count; i++) {
        drop_events(r->slots[i].reads, r->slots[i].read_count);
        drop_events(r->slots[i].writes, r->slots[i].write_count);
        drop_events(r->slots[i].waited, r->slots[i].waited_count);
    }
    free(r->slots);
    tier_stream_destroy(z->with.tier, r->reads);
    tier_stream_destroy(z->with.tier, r->writes);
    ledger_free(z->with.ledger, r->sums);
    tier_free(&r->buffers);
    tier_free(&r->records);
}

/* === loads === */

typedef struct moving {
    uint64_t record, at; /* of one tile, among the records and in the load */
    uint64_t bytes;
} moving;

static moving moving_of(const zero *z, const window *w, size_t i, uint64_t *used)
{
    const piece *p = w->pieces[i];
    uint64_t tile = stream_tile(z, p->param), first = w->tiles[i].first - p->first;
    moving m = {.record = p->record + first / tile * record_bytes(z, p, tile),
                .at = *used,
                .bytes = record_bytes(z, p, w->tiles[i].count)};
    *used += m.bytes;
    return m;
}

static uint32_t slot_of(const zero *z, uint64_t load)
{
    return (uint32_t)(load % z->stream.ring.slot_count);
}

/* Where a slot's buffer begins. */
static uint64_t buffer_at(const zero *z, uint32_t slot)
{
    return z->stream.ring.first + slot * z->stream.ring.bytes;
}

uint64_t records_loads(const zero *z, uint64_t windows)
{
    uint32_t load = z->stream.ring.load;
    return load ? (windows + load - 1) / load : windows;
}

uint32_t records_windows(const zero *z, uint64_t load)
{
    return z->stream.ring.load ? z->stream.ring.slots[slot_of(z, load)].windows : 1;
}

/* What lies together among the records, and so in the buffer, moves at once. */
typedef struct run {
    zero *z;
    record_slot *slot;
    uint64_t buffer;
    moving m; /* bytes 0: nothing yet */
    bool in;
} run;

static zds_status move(run *r, zds_error *error)
{
    record_ring *ring = &r->z->stream.ring;
    tier_end here = tier_in(&ring->buffers, r->buffer + r->m.at),
             there = tier_in(&ring->records, r->m.record);
    record_slot *s = r->slot;
    size_t *count = r->in ? &s->read_count : &s->write_count;
    zds_event **done = &(r->in ? s->reads : s->writes)[*count];
    /* What was written from this buffer before is there, before it is read into. */
    const tier_order order = {.waits = s->waited,
                              .wait_count = r->in ? s->waited_count : 0,
                              .stream = r->in ? ring->reads : ring->writes};
    if (!r->m.bytes)
        return ZDS_OK;
    zds_status status = tier_copy(r->in ? here : there, r->in ? there : here, r->m.bytes, &order,
                                  order.stream ? NULL : done, error);
    *count += !status && !order.stream && *done;
    r->m.bytes = 0;
    return status;
}

static zds_status add(run *r, const moving *m, zds_error *error)
{
    bool joins = r->m.bytes && r->m.record + r->m.bytes == m->record;
    zds_status status = joins ? ZDS_OK : move(r, error);
    if (joins)
        r->m.bytes += m->bytes;
    else
        r->m = *m;
    return status;
}

/* All records of a load, in or out. */
static zds_status move_load(zero *z, uint64_t load, bool in)
{
    record_ring *ring = &z->stream.ring;
    uint32_t slot = slot_of(z, load);
    run r = {.z = z, .slot = &ring->slots[slot], .buffer = buffer_at(z, slot), .in = in};
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = ZDS_OK;
    for (uint32_t j = 0; !status && j < r.slot->windows; j++) {
        window w;
        uint64_t used = r.slot->at[j];
        stream_bind_window(z, load * ring->load + j, &w);
        for (size_t i = 0; !status && i < w.count; i++) {
            if (!w.pieces[i]->rests)
                continue;
            moving m = moving_of(z, &w, i, &used);
            status = add(&r, &m, &error);
        }
    }
    return zero_checked(z, status ? status : move(&r, &error), &error);
}

static zds_status wait_all(zero *z, zds_event **events, size_t *count)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = ZDS_OK;
    for (size_t i = 0; i < *count; i++) {
        zds_status one = tier_wait(z->with.states_tier, &events[i], status ? NULL : &error);
        status = status ? status : one;
    }
    *count = 0;
    return zero_checked(z, status, &error);
}

/* Where each window's records are in the buffer. */
static void lay_out(const zero *z, uint64_t load, uint64_t windows)
{
    const record_ring *r = &z->stream.ring;
    record_slot *s = &r->slots[slot_of(z, load)];
    uint64_t first = load * r->load, left = windows - first, used = 0;
    s->windows = (uint32_t)(left < r->load ? left : r->load);
    for (uint32_t j = 0; j < s->windows; j++) {
        window w;
        s->at[j] = used;
        stream_bind_window(z, first + j, &w);
        for (size_t i = 0; i < w.count; i++)
            if (w.pieces[i]->rests)
                moving_of(z, &w, i, &used);
    }
    s->bytes = used;
}

/* Zeros, in place of what rests. */
static zds_status clear_load(zero *z, uint64_t load)
{
    record_ring *r = &z->stream.ring;
    uint32_t slot = slot_of(z, load);
    const record_slot *s = &r->slots[slot];
    zds_error error = ZDS_ERROR_INIT;
    const tier_order order = {
        .waits = s->waited, .wait_count = s->waited_count, .stream = r->reads};
    return zero_checked(z,
                        tier_fill(tier_in(&r->buffers, buffer_at(z, slot)), ZDS_U8, 0, s->bytes,
                                  &order, NULL, &error),
                        &error);
}

zds_status records_begin(zero *z)
{
    record_ring *r = &z->stream.ring;
    r->open = STREAM_NONE;
    if (!z->queue)
        return records_settle(z);
    return r->reads ? zero_follow(z, r->reads, r->writes) : ZDS_OK;
}

zds_status records_read(zero *z, uint64_t load, uint64_t windows, bool fresh)
{
    record_ring *r = &z->stream.ring;
    uint32_t slot = slot_of(z, load);
    record_slot *s = &r->slots[slot];
    zds_status status = wait_all(z, s->reads, &s->read_count);
    if (!status)
        status = wait_all(z, s->waited, &s->waited_count);
    zds_event **swapped = s->waited;
    s->waited = s->writes;
    s->waited_count = s->write_count;
    s->writes = swapped;
    s->write_count = 0;
    lay_out(z, load, windows);
    if (!status && fresh && z->queue)
        status = clear_load(z, load);
    else if (!status && fresh)
        status = wait_all(z, s->waited, &s->waited_count);
    else if (!status)
        status = move_load(z, load, true);
    if (status || !z->queue)
        return status;
    s->read_count = 1;
    return zero_follow_event(z, z->queue, r->reads, &s->reads[0]);
}

zds_status records_await(zero *z, uint64_t load)
{
    record_slot *s = &z->stream.ring.slots[slot_of(z, load)];
    return z->queue ? ZDS_OK : wait_all(z, s->reads, &s->read_count);
}

zds_status records_write(zero *z, uint64_t load)
{
    record_ring *r = &z->stream.ring;
    record_slot *s = &r->slots[slot_of(z, load)];
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = z->queue ? zero_follow(z, r->writes, z->queue) : ZDS_OK;
    if (!status)
        status = move_load(z, load, false);
    if (!status && z->queue) {
        s->write_count = 1;
        status =
            zero_checked(z, tier_record(z->with.tier, r->writes, &s->writes[0], &error), &error);
    }
    return status || z->wish.writes_behind ? status : wait_all(z, s->writes, &s->write_count);
}

zds_status records_settle(zero *z)
{
    record_ring *r = &z->stream.ring;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = ZDS_OK;
    if (z->queue)
        return zero_checked(z, tier_sync(z->with.tier, r->writes, &error), &error);
    for (uint32_t i = 0; r->slots && !status && i < r->slot_count; i++)
        status = wait_all(z, r->slots[i].writes, &r->slots[i].write_count);
    return status;
}

/* === a load's windows === */

void records_bind(const zero *z, uint64_t load, uint32_t j, window *w)
{
    const record_ring *r = &z->stream.ring;
    uint32_t slot = slot_of(z, load);
    uint64_t used = r->slots[slot].at[j];
    stream_bind_window(z, load * r->load + j, w);
    for (size_t i = 0; i < w->count; i++) {
        const piece *p = w->pieces[i];
        const zds_param_needs *needs = &z->with.params[p->param].needs;
        if (!p->rests)
            continue;
        moving m = moving_of(z, w, i, &used);
        w->at[i] = buffer_at(z, slot) + m.at;
        bufref at = {&r->buffers, w->at[i], ZDS_U8};
        w->tiles[i].master = bufref_at(at, 0);
        for (uint32_t s = 0; s < needs->state_count; s++)
            if (needs->states[s].scope == ZDS_SCOPE_SHARDED &&
                state_bytes(&needs->states[s], w->tiles[i].count))
                w->states[i][s] = bufref_at(at, place_in(z, p, w->tiles[i].count, s));
    }
}

void records_clear(const zero *z, const window *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->pieces[i]->rests)
            memset(w->tiles[i].master, 0, record_bytes(z, w->pieces[i], w->tiles[i].count));
}

static uint64_t *sum_of(const zero *z, const window *w, size_t i)
{
    const piece *p = w->pieces[i];
    uint64_t tile = stream_tile(z, p->param);
    return &z->stream.ring.sums[p->sum + (w->tiles[i].first - p->first) / tile];
}

static uint64_t sum_now(const zero *z, const window *w, size_t i)
{
    return XXH3_64bits(w->tiles[i].master, record_bytes(z, w->pieces[i], w->tiles[i].count));
}

void records_seal(const zero *z, const window *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->pieces[i]->rests)
            *sum_of(z, w, i) = sum_now(z, w, i);
}

int64_t records_check(const zero *z, const window *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->pieces[i]->rests && *sum_of(z, w, i) != sum_now(z, w, i))
            return w->pieces[i]->param;
    return -1;
}

zds_status records_spoilt(zero *z, uint32_t param)
{
    failure_set(z->with.failure, ZDS_ERR_IO,
                "rank %d: memory tier %s gives back other bytes of parameter %s than were written "
                "(its master weights or optimizer states): the medium, its driver, or somebody who "
                "writes there is at fault; go on from a checkpoint on another",
                z->with.peers->rank, z->with.states_tier->name, z->with.model->params[param].name);
    return peers_give_up(z->with.peers, ZDS_ERR_IO);
}

/* === one at a time === */

/* The record of a tile comes into the first buffer, where it stays until another does. */
static zds_status open_record(zero *z, const piece *p, uint64_t index, uint64_t elements)
{
    record_ring *r = &z->stream.ring;
    zds_error error = ZDS_ERROR_INIT;
    uint64_t bytes = record_bytes(z, p, elements),
             record = p->record + index * record_bytes(z, p, stream_tile(z, p->param));
    if (r->open == record)
        return ZDS_OK;
    r->open = STREAM_NONE;
    zds_status status =
        zero_checked(z,
                     tier_copy(tier_in(&r->buffers, r->first), tier_in(&r->records, record), bytes,
                               NULL, NULL, &error),
                     &error);
    const void *at = bufref_at((bufref){&r->buffers, r->first, ZDS_U8}, 0);
    if (!status && XXH3_64bits(at, bytes) != r->sums[p->sum + index])
        status = records_spoilt(z, p->param);
    r->open = status ? STREAM_NONE : record;
    r->open_bytes = bytes;
    r->open_sum = p->sum + index;
    return status;
}

zds_status records_keep(zero *z)
{
    record_ring *r = &z->stream.ring;
    zds_error error = ZDS_ERROR_INIT;
    const void *at = bufref_at((bufref){&r->buffers, r->first, ZDS_U8}, 0);
    r->sums[r->open_sum] = XXH3_64bits(at, r->open_bytes);
    return zero_checked(z,
                        tier_copy(tier_in(&r->records, r->open), tier_in(&r->buffers, r->first),
                                  r->open_bytes, NULL, NULL, &error),
                        &error);
}

zds_status record_of(zero *z, const piece *p, int32_t state, uint64_t *at, uint64_t *bytes,
                     bufref *out)
{
    const zds_state_spec spec = stream_spec(z, p->param, state);
    uint64_t tile = stream_tile(z, p->param), full = state_offset(&spec, tile), index = *at / full;
    uint64_t left = p->count - index * tile, elements = left < tile ? left : tile;
    const record_ring *r = &z->stream.ring;
    zds_status status = zero_is_here(z) ? open_record(z, p, index, elements) : ZDS_OK;
    *out = zero_is_here(z)
               ? (bufref){&r->buffers, r->first, spec.dtype}
               : (bufref){&r->records, p->record + index * record_bytes(z, p, tile), spec.dtype};
    if (state >= 0)
        out->offset += place_in(z, p, elements, (uint32_t)state);
    *at %= full;
    uint64_t here = state_bytes(&spec, elements) - *at;
    *bytes = *bytes < here ? *bytes : here;
    return status;
}
