/* What rests in another memory than the one where the optimizer computes. Of a tile, its master
 * weights and states lie side by side there, as one record; its parameter, to which the optimizer's
 * output goes, in this rank's part of its span (params.c). A ring of buffers where it computes
 * goes over loads of windows: one is read while another is stepped and a third is written. On a
 * device a load is a window, and streams keep the order; on the host threads share a load, the
 * tier's events tell when it is there, and each record has a checksum in memory. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdlib.h>
#include <string.h>

#include "zero/parts.h"

/* Where state s of `count` elements begins in their record; ZDS_MAX_STATES: where the record ends.
 * The master is at its beginning. */
static uint64_t place_in(const zero *z, const piece *p, uint64_t count, uint32_t s)
{
    const zds_param_needs *needs = &z->with.params[p->param].needs;
    uint64_t at = layout_round_up(count * zds_dtype_size(z->wish.master_dtype), 64);
    for (uint32_t i = 0; i < s && i < needs->state_count; i++)
        if (needs->states[i].scope == ZDS_SCOPE_SHARDED)
            at += layout_round_up(state_bytes(&needs->states[i], count), 64);
    return at;
}

static uint64_t record_bytes(const zero *z, const piece *p, uint64_t count)
{
    return layout_round_up(place_in(z, p, count, ZDS_MAX_STATES), z->stream.ring.alignment);
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

/* Bytes of a tile's output, as far as its copy goes. */
static uint64_t output_bytes(const zero *z, const piece *p, uint64_t count)
{
    return layout_round_up(count * zds_dtype_size(p->dtype), z->stream.ring.out_alignment);
}

/* Of the outputs of a window, at most. */
static uint64_t outputs_of_window(const zero *z)
{
    const stream_part *t = &z->stream;
    uint64_t largest = 0, away = 0;
    for (uint32_t k = 0; k < t->piece_count; k++) {
        const piece *p = &t->pieces[k];
        uint64_t tile = stream_tile(z, p->param), count = p->count < tile ? p->count : tile;
        if (!p->away)
            continue;
        away += output_bytes(z, p, count);
        largest = output_bytes(z, p, count) > largest ? output_bytes(z, p, count) : largest;
    }
    uint64_t shared = z->wish.tile * sizeof(float) + WINDOW_TILES * t->ring.out_alignment;
    return shared > largest ? away < shared ? away : shared : largest;
}

static moves *moves_of(record_slot *s, size_t k)
{
    moves *all[] = {&s->reads, &s->writes, &s->waited};
    return all[k];
}

static zds_status take_slots(zero *z, zds_error *error)
{
    record_ring *r = &z->stream.ring;
    size_t copies = (size_t)2 * r->load * WINDOW_TILES;
    r->slots = calloc(r->slot_count, sizeof *r->slots);
    for (uint32_t i = 0; r->slots && i < r->slot_count; i++) {
        for (size_t k = 0; k < 3; k++) {
            moves *m = moves_of(&r->slots[i], k);
            m->events = calloc(copies, sizeof(zds_event *));
            m->tiers = calloc(copies, sizeof(tier *));
            if (!m->events || !m->tiers)
                return zero_no_memory(error, "offload buffers", 0);
        }
    }
    return r->slots ? ZDS_OK : zero_no_memory(error, "offload buffers", 0);
}

static zds_status take_memory(zero *z, uint64_t total, zds_error *error)
{
    record_ring *r = &z->stream.ring;
    zds_status status = ZDS_OK;
    if (total)
        status = zero_alloc(z->with.states_tier, &r->records, "optimizer states", total, error);
    if (!status)
        status = zero_alloc(z->with.tier, &r->buffers, "offload buffers",
                            r->slot_count * (r->bytes + r->out_bytes) + r->alignment, error);
    if (status || !zero_is_here(z))
        return status;
    uintptr_t at = (uintptr_t)r->buffers.block.pointer;
    r->first = at ? layout_round_up(at, r->alignment) - at : 0;
    if (total)
        r->sums = ledger_alloc(z->with.ledger, "checksums", r->count * sizeof *r->sums, 0);
    return r->sums || !total || z->with.tier->planned
               ? ZDS_OK
               : zero_no_memory(error, "checksums", r->count * sizeof *r->sums);
}

zds_status records_create(zero *z, zds_error *error)
{
    record_ring *r = &z->stream.ring;
    uint64_t densest = 0, largest = 0, short_of = 0;
    const zds_offload_info *info = &z->with.states_tier->info;
    r->out_alignment = zero_params_rest(z) ? z->with.params_tier->info.alignment : 64;
    r->out_alignment = r->out_alignment > 64 ? r->out_alignment : 64;
    r->alignment = info->alignment > 64 ? info->alignment : 64;
    r->alignment = r->alignment > r->out_alignment ? r->alignment : r->out_alignment;
    r->open = STREAM_NONE;
    uint64_t total = number_records(z, &densest, &largest, &short_of),
             outputs = outputs_of_window(z);
    if (!total && !outputs)
        return ZDS_OK;
    /* Small tiles share a window up to a tile's size, each with a padding of its own, and with a
     * last block that may be short in elements, but not in bytes. */
    uint64_t padding =
        (uint64_t)WINDOW_TILES * ((ZDS_MAX_STATES + 1) * 64 + r->alignment + short_of);
    uint64_t bytes = densest * z->wish.tile + padding;
    r->load = zero_is_here(z) ? LOAD_WINDOWS : 1;
    r->bytes = layout_round_up(r->load * (bytes > largest ? bytes : largest), r->alignment);
    r->bytes = r->bytes < total ? r->bytes : total;
    r->out_bytes = layout_round_up(r->load * outputs, r->alignment);
    /* More than there are loads are of no use. */
    uint64_t loads = 1;
    for (uint32_t k = 0; k < z->stream.piece_count; k++)
        loads += tiles_of(z, &z->stream.pieces[k]);
    r->slot_count = z->wish.buffers < loads ? z->wish.buffers : (uint32_t)loads;
    r->slot_count = r->slot_count ? r->slot_count : 1;
    zds_status status = take_memory(z, total, error);
    if (status || z->with.tier->planned)
        return status;
    status = take_slots(z, error);
    if (!status)
        status = tier_stream_create(z->with.tier, &r->reads, error);
    return status ? status : tier_stream_create(z->with.tier, &r->writes, error);
}

static void drop_moves(moves *m)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->events[i])
            m->events[i]->ops->release(m->events[i]);
    free(m->events);
    free(m->tiers);
}

void records_destroy(zero *z)
{
    record_ring *r = &z->stream.ring;
    for (uint32_t i = 0; r->slots && i < r->slot_count; i++)
        for (size_t k = 0; k < 3; k++)
            drop_moves(moves_of(&r->slots[i], k));
    free(r->slots);
    tier_stream_destroy(z->with.tier, r->reads);
    tier_stream_destroy(z->with.tier, r->writes);
    ledger_free(z->with.ledger, r->sums);
    tier_free(&r->buffers);
    tier_free(&r->records);
}

/* === loads === */

typedef struct moving {
    const slab *slab; /* where it rests: */
    uint64_t there;   /* bytes of it, */
    uint64_t at;      /* and of the load's buffer */
    uint64_t bytes;   /* 0: nothing */
} moving;

/* Of a tile: its record, */
static moving record_of_tile(const zero *z, const window *w, size_t i, uint64_t *used)
{
    const piece *p = w->pieces[i];
    uint64_t tile = stream_tile(z, p->param), first = w->tiles[i].first - p->first;
    moving m = {.slab = &z->stream.ring.records, .at = *used};
    if (!p->rests)
        return m;
    m.there = p->record + first / tile * record_bytes(z, p, tile);
    m.bytes = record_bytes(z, p, w->tiles[i].count);
    *used += m.bytes;
    return m;
}

/* and its output, to where its parameter rests. */
static moving output_of_tile(const zero *z, const window *w, size_t i, uint64_t *used)
{
    const piece *p = w->pieces[i];
    moving m = {.at = *used};
    if (!p->away)
        return m;
    bufref home = bufref_moved(p->output, w->tiles[i].first - p->first);
    m.slab = home.slab;
    m.there = home.offset;
    m.bytes = output_bytes(z, p, w->tiles[i].count);
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
    return z->stream.ring.first + slot * (z->stream.ring.bytes + z->stream.ring.out_bytes);
}

uint64_t records_loads(const zero *z, uint64_t windows)
{
    return (windows + z->stream.ring.load - 1) / z->stream.ring.load;
}

uint32_t records_windows(const zero *z, uint64_t load)
{
    return z->stream.ring.slots[slot_of(z, load)].windows;
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
             there = tier_in(r->m.slab, r->m.there);
    record_slot *s = r->slot;
    moves *m = r->in ? &s->reads : &s->writes;
    zds_event **done = &m->events[m->count];
    /* What was written from this buffer before is there, before it is read into. */
    const tier_order order = {.waits = s->waited.events,
                              .wait_count = r->in ? s->waited.count : 0,
                              .stream = r->in ? ring->reads : ring->writes};
    if (!r->m.bytes)
        return ZDS_OK;
    zds_status status = tier_copy(r->in ? here : there, r->in ? there : here, r->m.bytes, &order,
                                  order.stream ? NULL : done, error);
    m->tiers[m->count] = r->m.slab->tier;
    m->count += !status && !order.stream && *done;
    r->m.bytes = 0;
    return status;
}

static zds_status add(run *r, const moving *m, zds_error *error)
{
    bool joins = r->m.bytes && r->m.slab == m->slab && r->m.there + r->m.bytes == m->there;
    if (!m->bytes)
        return ZDS_OK;
    zds_status status = joins ? ZDS_OK : move(r, error);
    if (joins)
        r->m.bytes += m->bytes;
    else
        r->m = *m;
    return status;
}

typedef moving (*what_moves)(const zero *z, const window *w, size_t i, uint64_t *used);

static zds_status move_each(zero *z, uint64_t load, bool in, what_moves what, const uint64_t *at)
{
    record_ring *ring = &z->stream.ring;
    uint32_t slot = slot_of(z, load);
    run r = {.z = z, .slot = &ring->slots[slot], .buffer = buffer_at(z, slot), .in = in};
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = ZDS_OK;
    for (uint32_t j = 0; !status && j < r.slot->windows; j++) {
        window w;
        uint64_t used = at[j];
        stream_bind_window(z, load * ring->load + j, &w);
        for (size_t i = 0; !status && i < w.count; i++) {
            moving m = what(z, &w, i, &used);
            status = add(&r, &m, &error);
        }
    }
    return zero_checked(z, status ? status : move(&r, &error), &error);
}

/* What has no gradient in a step is left as it is. */
static moving stepped_output(const zero *z, const window *w, size_t i, uint64_t *used)
{
    moving m = output_of_tile(z, w, i, used);
    if (!z->grads.present[w->pieces[i]->param])
        m.bytes = 0;
    return m;
}

/* All records of a load, in or out, */
static zds_status move_records(zero *z, uint64_t load, bool in)
{
    return move_each(z, load, in, record_of_tile, z->stream.ring.slots[slot_of(z, load)].at);
}

/* and all outputs: out, or once, in, what masters start from. */
static zds_status move_outputs(zero *z, uint64_t load, bool in)
{
    return move_each(z, load, in, in ? output_of_tile : stepped_output,
                     z->stream.ring.slots[slot_of(z, load)].out_at);
}

static zds_status wait_all(zero *z, moves *m)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = ZDS_OK;
    for (size_t i = 0; i < m->count; i++) {
        zds_status one = tier_wait(m->tiers[i], &m->events[i], status ? NULL : &error);
        status = status ? status : one;
    }
    m->count = 0;
    return zero_checked(z, status, &error);
}

/* The device's event for what its stream was given. */
static void keep(moves *m, tier *t)
{
    m->tiers[0] = t;
    m->count = 1;
}

/* Where each window's records are in the buffer. */
static void lay_out(const zero *z, uint64_t load, uint64_t windows)
{
    const record_ring *r = &z->stream.ring;
    record_slot *s = &r->slots[slot_of(z, load)];
    uint64_t first = load * r->load, left = windows - first, used = 0, out = r->bytes;
    s->windows = (uint32_t)(left < r->load ? left : r->load);
    for (uint32_t j = 0; j < s->windows; j++) {
        window w;
        s->at[j] = used;
        s->out_at[j] = out;
        stream_bind_window(z, first + j, &w);
        for (size_t i = 0; i < w.count; i++) {
            record_of_tile(z, &w, i, &used);
            output_of_tile(z, &w, i, &out);
        }
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
        .waits = s->waited.events, .wait_count = s->waited.count, .stream = r->reads};
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
    zds_status status = wait_all(z, &s->reads);
    if (!status)
        status = wait_all(z, &s->waited);
    moves swapped = s->waited;
    s->waited = s->writes;
    s->writes = swapped;
    lay_out(z, load, windows);
    if (!status && fresh && z->queue)
        status = clear_load(z, load);
    else if (!status && fresh)
        status = wait_all(z, &s->waited);
    else if (!status)
        status = move_records(z, load, true);
    if (!status && fresh)
        status = move_outputs(z, load, true);
    if (status || !z->queue)
        return status;
    keep(&s->reads, z->with.tier);
    return zero_follow_event(z, z->queue, r->reads, &s->reads.events[0]);
}

zds_status records_await(zero *z, uint64_t load)
{
    record_slot *s = &z->stream.ring.slots[slot_of(z, load)];
    return z->queue ? ZDS_OK : wait_all(z, &s->reads);
}

zds_status records_write(zero *z, uint64_t load)
{
    record_ring *r = &z->stream.ring;
    record_slot *s = &r->slots[slot_of(z, load)];
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = z->queue ? zero_follow(z, r->writes, z->queue) : ZDS_OK;
    if (!status)
        status = move_records(z, load, false);
    if (!status)
        status = move_outputs(z, load, false);
    if (!status && z->queue) {
        keep(&s->writes, z->with.tier);
        status = zero_checked(z, tier_record(z->with.tier, r->writes, &s->writes.events[0], &error),
                              &error);
    }
    return status || z->wish.writes_behind ? status : wait_all(z, &s->writes);
}

zds_status records_settle(zero *z)
{
    record_ring *r = &z->stream.ring;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = ZDS_OK;
    if (z->queue)
        return zero_checked(z, tier_sync(z->with.tier, r->writes, &error), &error);
    for (uint32_t i = 0; r->slots && !status && i < r->slot_count; i++)
        status = wait_all(z, &r->slots[i].writes);
    return status;
}

/* === a load's windows === */

void records_bind(const zero *z, uint64_t load, uint32_t j, window *w)
{
    const record_ring *r = &z->stream.ring;
    uint32_t slot = slot_of(z, load);
    uint64_t used = r->slots[slot].at[j], out = r->slots[slot].out_at[j];
    stream_bind_window(z, load * r->load + j, w);
    for (size_t i = 0; i < w->count; i++) {
        const piece *p = w->pieces[i];
        const zds_param_needs *needs = &z->with.params[p->param].needs;
        w->at[i] = buffer_at(z, slot) + record_of_tile(z, w, i, &used).at;
        w->out_at[i] = buffer_at(z, slot) + output_of_tile(z, w, i, &out).at;
        if (p->away)
            w->tiles[i].output = bufref_at((bufref){&r->buffers, w->out_at[i], ZDS_U8}, 0);
        if (!p->rests)
            continue;
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
