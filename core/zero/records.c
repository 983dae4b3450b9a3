/* What rests in another memory than the one where the optimizer computes. Of a tile, its master
 * weights and states lie side by side there, as one record, and of each record in files there is a
 * checksum in memory; its parameter, to which the optimizer's output goes, is in this rank's part
 * of its span (params.c). */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdlib.h>
#include <string.h>

#include "zero/parts.h"

uint64_t records_place(const zero *z, const piece *p, uint64_t count, uint32_t s)
{
    const zds_param_needs *needs = &z->with.params[p->param].needs;
    uint64_t at = layout_round_up(count * zds_dtype_size(z->wish.master_dtype), 64);
    for (uint32_t i = 0; i < s && i < needs->state_count; i++)
        if (needs->states[i].scope == ZDS_SCOPE_SHARDED)
            at += layout_round_up(state_bytes(&needs->states[i], count), 64);
    return at;
}

uint64_t records_tile_bytes(const zero *z, const piece *p, uint64_t count)
{
    return layout_round_up(records_place(z, p, count, ZDS_MAX_STATES), z->stream.ring.alignment);
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
        uint64_t full = records_tile_bytes(z, p, tile),
                 last = records_tile_bytes(z, p, p->count - whole * tile),
                 blocks = block_bytes(z, p);
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

uint64_t records_output_bytes(const zero *z, const piece *p, uint64_t count)
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
        away += records_output_bytes(z, p, count);
        largest = records_output_bytes(z, p, count) > largest ? records_output_bytes(z, p, count)
                                                              : largest;
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
    size_t copies = (size_t)2 * r->load * WINDOW_TILES + 2;
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

/* The first byte of a slab in the host's memory at a multiple of the ring's alignment. */
static uint64_t first_aligned(const zero *z, const slab *s)
{
    uintptr_t at = (uintptr_t)s->block.pointer;
    return layout_round_up(at, z->stream.ring.alignment) - at;
}

static bool are_files(const tier *t)
{
    return t->info.device.space == ZDS_SPACE_FILE;
}

static zds_status take_memory(zero *z, uint64_t total, bool outputs, zds_error *error)
{
    record_ring *r = &z->stream.ring;
    uint64_t bytes = r->slot_count * (r->bytes + r->out_bytes) + r->alignment;
    bool here = zero_is_here(z), files = total && are_files(z->with.states_tier);
    r->outputs_stop = !here && outputs && are_files(z->with.params_tier);
    zds_status status = ZDS_OK;
    if (total)
        status = zero_alloc(z->with.states_tier, &r->records, "optimizer states", total, error);
    if (!status)
        status = zero_alloc(z->with.tier, &r->buffers, "offload buffers", bytes, error);
    if (!status && !here && (files || r->outputs_stop))
        status = zero_alloc(z->with.host_tier, &r->stops, "offload buffers", bytes, error);
    if (status)
        return status;
    r->first = here ? first_aligned(z, &r->buffers) : 0;
    r->stop_first = r->stops.tier ? first_aligned(z, &r->stops) : 0;
    if (here ? total == 0 : !files)
        return ZDS_OK;
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
    uint64_t loads = records_loads(z, stream_number(z, stream_takes_cut));
    r->slot_count = z->wish.buffers < loads ? z->wish.buffers : (uint32_t)loads;
    r->slot_count = r->slot_count ? r->slot_count : 1;
    zds_status status = take_memory(z, total, outputs > 0, error);
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
    for (uint32_t i = 0; r->slots && i < r->slot_count; i++) {
        for (size_t k = 0; k < 3; k++)
            drop_moves(moves_of(&r->slots[i], k));
        if (r->slots[i].left)
            r->slots[i].left->ops->release(r->slots[i].left);
    }
    free(r->slots);
    tier_stream_destroy(z->with.tier, r->reads);
    tier_stream_destroy(z->with.tier, r->writes);
    ledger_free(z->with.ledger, r->sums);
    tier_free(&r->stops);
    tier_free(&r->buffers);
    tier_free(&r->records);
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

/* The first buffer that the host can point into. */
static bufref first_buffer(const zero *z)
{
    const record_ring *r = &z->stream.ring;
    return r->stops.tier ? (bufref){&r->stops, r->stop_first, ZDS_U8}
                         : (bufref){&r->buffers, r->first, ZDS_U8};
}

/* The record of a tile comes into the first buffer, where it stays until another does. */
static zds_status open_record(zero *z, const piece *p, uint64_t index, uint64_t elements)
{
    record_ring *r = &z->stream.ring;
    const bufref buffer = first_buffer(z);
    zds_error error = ZDS_ERROR_INIT;
    uint64_t bytes = records_tile_bytes(z, p, elements),
             record = p->record + index * records_tile_bytes(z, p, stream_tile(z, p->param));
    if (r->open == record)
        return ZDS_OK;
    r->open = STREAM_NONE;
    zds_status status =
        zero_checked(z,
                     tier_copy(tier_in(buffer.slab, buffer.offset), tier_in(&r->records, record),
                               bytes, NULL, NULL, &error),
                     &error);
    if (!status && XXH3_64bits(bufref_at(buffer, 0), bytes) != r->sums[p->sum + index])
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
    const bufref buffer = first_buffer(z);
    if (!r->sums)
        return ZDS_OK;
    r->sums[r->open_sum] = XXH3_64bits(bufref_at(buffer, 0), r->open_bytes);
    return zero_checked(z,
                        tier_copy(tier_in(&r->records, r->open),
                                  tier_in(buffer.slab, buffer.offset), r->open_bytes, NULL, NULL,
                                  &error),
                        &error);
}

zds_status record_of(zero *z, const piece *p, int32_t state, uint64_t *at, uint64_t *bytes,
                     bufref *out)
{
    const zds_state_spec spec = stream_spec(z, p->param, state);
    uint64_t tile = stream_tile(z, p->param), full = state_offset(&spec, tile), index = *at / full;
    uint64_t left = p->count - index * tile, elements = left < tile ? left : tile;
    const record_ring *r = &z->stream.ring;
    zds_status status = r->sums ? open_record(z, p, index, elements) : ZDS_OK;
    *out = r->sums ? first_buffer(z)
                   : (bufref){&r->records, p->record + index * records_tile_bytes(z, p, tile),
                              spec.dtype};
    out->dtype = spec.dtype;
    if (state >= 0)
        out->offset += records_place(z, p, elements, (uint32_t)state);
    *at %= full;
    uint64_t here = state_bytes(&spec, elements) - *at;
    *bytes = *bytes < here ? *bytes : here;
    return status;
}
