/* Trained values and optimizer states, out to rank 0 and in again: as values in fp32, or as the
 * bytes that they are. */
#include <string.h>

#include "host/kernels.h"
#include "zero/parts.h"

/* What moves, in units: values, or bytes. */
typedef struct cargo {
    uint32_t param;
    int32_t state; /* -1: the trained value */
    zds_state_spec spec;
    zds_dtype rests, moves; /* what a unit is where it rests, and in the staging */
    int32_t lots;           /* one, or one a rank, each the rank's own */
} cargo;

static cargo cargo_of(const zero *z, uint32_t param, int32_t state, bool bytes)
{
    cargo c = {.param = param, .state = state, .spec = stream_spec(z, param, state), .lots = 1};
    c.rests = bytes ? ZDS_U8 : c.spec.dtype;
    c.moves = bytes ? ZDS_U8 : ZDS_F32;
    if (bytes && c.spec.scope == ZDS_SCOPE_RANK_LOCAL)
        c.lots = z->with.peers->world_size;
    return c;
}

/* What rank 0 hands to the program, and gets from it. */
typedef struct outlet {
    zds_write_fn values; /* one of the two */
    zds_write_bytes_fn bytes;
    void *user;
    zds_status *written;
} outlet;

typedef struct inlet {
    zds_read_fn values;
    zds_read_bytes_fn bytes;
    void *user;
    zds_status *read;
} inlet;

static void put(const outlet *to, const zero *z, const cargo *c, uint64_t first, uint64_t count)
{
    const void *staging = z->params.staging;
    if (!*to->written)
        *to->written = to->values ? to->values(to->user, c->param, first, count, staging)
                                  : to->bytes(to->user, first, count, staging);
}

static void take(const inlet *from, zero *z, const cargo *c, uint64_t first, uint64_t count)
{
    void *staging = z->params.staging;
    if (!*from->read)
        *from->read = from->values ? from->values(from->user, c->param, first, count, staging)
                                   : from->bytes(from->user, first, count, staging);
}

static uint64_t at_most(uint64_t count, uint64_t most)
{
    return count < most ? count : most;
}

/* Units of `count` elements from a block's first, and from there to the unit of the element
 * `elements` further on. */
static uint64_t units(const cargo *c, uint64_t count)
{
    return state_bytes(&c->spec, count) / zds_dtype_size(c->rests);
}
static uint64_t unit_of(const cargo *c, uint64_t elements)
{
    return state_offset(&c->spec, elements) / zds_dtype_size(c->rests);
}

uint64_t zero_state_bytes(const zero *z, uint32_t param, int32_t state)
{
    zds_state_spec spec = stream_spec(z, param, state);
    if (spec.kind == ZDS_STATE_TENSOR || spec.kind == ZDS_STATE_GLOBAL)
        return spec.bytes;
    return state_bytes(&spec, z->with.model->params[param].numel);
}

static uint64_t all_units(const zero *z, const cargo *c)
{
    return zero_state_bytes(z, c->param, c->state) / zds_dtype_size(c->rests);
}

static bool is_whole(const zero *z, const cargo *c)
{
    return c->state >= 0 && stream_whole_state(z, c->param, (uint32_t)c->state).slab;
}

/* Where units lie on this rank, from `first` of the parameter's; *count: at most as many as lie
 * together. */
static zds_status units_at(zero *z, const cargo *c, uint64_t first, uint64_t *count, bufref *out)
{
    const piece *p = z->stream.piece_of[c->param];
    uint64_t size = zds_dtype_size(c->rests), at = first * size, bytes = *count * size;
    zds_status status = ZDS_OK;
    bufref b;
    if (!p && c->state < 0) { /* frozen */
        b = params_at(z, c->param, first);
        at = 0;
    } else if (is_whole(z, c)) {
        b = stream_whole_state(z, c->param, (uint32_t)c->state);
    } else {
        at -= unit_of(c, p->first) * size;
        b = c->state < 0 ? p->master : p->states[c->state];
        if (p->rests)
            status = record_of(z, p, c->state, &at, &bytes, &b);
    }
    *count = bytes / size;
    b.offset += at;
    b.dtype = c->rests;
    *out = b;
    return status;
}

static void convert(const cargo *c, void *to, zds_dtype to_dtype, const void *from,
                    zds_dtype from_dtype, uint64_t count)
{
    if (c->rests == c->moves)
        memcpy(to, from, count * zds_dtype_size(c->rests));
    else
        kernel_convert(to, to_dtype, from, from_dtype, count);
}

static void *staged(const zero *z, const cargo *c, uint64_t at)
{
    return (char *)z->params.staging + at * zds_dtype_size(c->moves);
}

/* Between some units and the staging, from its unit `at` on. */
static zds_status stage(zero *z, const cargo *c, bufref from, uint64_t at, uint64_t count)
{
    bool here = zero_points_to(from);
    zds_status status =
        here ? ZDS_OK : zero_fetch(z, z->params.raw, from, count * zds_dtype_size(c->rests));
    if (!status)
        convert(c, staged(z, c, at), c->moves, here ? bufref_at(from, 0) : z->params.raw, c->rests,
                count);
    return status;
}

static zds_status unstage(zero *z, const cargo *c, bufref to, uint64_t at, uint64_t count)
{
    bool here = zero_points_to(to);
    convert(c, here ? bufref_at(to, 0) : z->params.raw, c->rests, staged(z, c, at), c->moves,
            count);
    return here ? ZDS_OK : zero_send(z, to, z->params.raw, count * zds_dtype_size(c->rests));
}

/* Nobody writes any more what is about to move. */
static zds_status settle(zero *z, const cargo *c)
{
    zds_status status = publish_await_all(z);
    if (!status && zero_rests(z))
        status = records_settle(z);
    return !status && c->spec.scope == ZDS_SCOPE_RANK_LOCAL ? stream_gather_own(z) : status;
}

/* === out === */

/* The owner's staged units go to rank 0. */
static zds_status carry(zero *z, const cargo *c, int32_t owner, uint64_t count)
{
    static const char doing[] = "collecting values";
    peers *p = z->with.control;
    bool direct = p->ops->send && p->ops->recv;
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = (uint64_t)c->param << 16 | (uint64_t)(c->state + 1) << 8 |
                            (c->moves == ZDS_U8 ? 14 : 6),
                     .what = doing,
                     .src = z->params.staging,
                     .dst = z->params.staging,
                     .count = count,
                     .src_dtype = c->moves,
                     .dst_dtype = c->moves,
                     .peer = owner};
    if (owner == 0)
        return ZDS_OK;
    if (!direct)
        return peers_call(p, p->ops->broadcast, &coll, doing);
    if (p->rank == 0)
        return peers_call(p, p->ops->recv, &coll, doing);
    coll.peer = 0;
    return p->rank == owner ? peers_call(p, p->ops->send, &coll, doing) : ZDS_OK;
}

/* What this rank has of them, in the staging. */
static zds_status stage_own(zero *z, const cargo *c, uint64_t first, uint64_t count)
{
    zds_status status = ZDS_OK;
    for (uint64_t i = 0; !status && i < count;) {
        uint64_t n = count - i;
        bufref from;
        status = units_at(z, c, first + i, &n, &from);
        if (!status)
            status = stage(z, c, from, i, n);
        i += n;
    }
    return status;
}

/* One owner's units [first, first + count) travel to rank 0 and are written there, `before` of
 * other lots having gone ahead. */
static zds_status move(zero *z, const cargo *c, int32_t owner, uint64_t first, uint64_t count,
                       uint64_t before, const outlet *to)
{
    for (uint64_t i = 0; i < count; i += STAGING_ELEMENTS) {
        uint64_t n = at_most(count - i, STAGING_ELEMENTS);
        zds_status status = ZDS_OK;
        if (z->with.peers->rank == owner)
            status = stage_own(z, c, first + i, n);
        if (!status)
            status = carry(z, c, owner, n);
        if (status)
            return status;
        if (z->with.peers->rank == 0)
            put(to, z, c, before + first + i, n);
    }
    return ZDS_OK;
}

/* Whole parameters as the callers see them are the same everywhere: rank 0 has them already. */
static zds_status write_own(zero *z, const cargo *trained, const outlet *to)
{
    cargo c = *trained;
    uint64_t numel = z->with.model->params[c.param].numel;
    zds_status status = ZDS_OK;
    c.rests = params_at(z, c.param, 0).dtype;
    for (uint64_t i = 0; !status && i < numel; i += STAGING_ELEMENTS) {
        uint64_t n = at_most(numel - i, STAGING_ELEMENTS);
        status = stage(z, &c, params_at(z, c.param, i), 0, n);
        if (!status)
            put(to, z, &c, i, n);
    }
    return status;
}

/* A CONSTANT state rests nowhere. */
static void write_constant(zero *z, const cargo *c, const outlet *to)
{
    uint64_t numel = z->with.model->params[c->param].numel;
    kernel_fill(z->params.staging, ZDS_F32, c->spec.initial, at_most(numel, STAGING_ELEMENTS));
    for (uint64_t i = 0; i < numel; i += STAGING_ELEMENTS)
        put(to, z, c, i, at_most(numel - i, STAGING_ELEMENTS));
}

/* Of a state that no part cuts: each rank's, or that of the parameter's owner, or rank 0's, which
 * all have. */
static zds_status write_whole(zero *z, const cargo *c, const outlet *to)
{
    uint64_t count = all_units(z, c);
    int32_t owner = z->lay->places[c->param].owner;
    zds_status status = ZDS_OK;
    if (c->lots == 1)
        return move(z, c, owner > 0 ? owner : 0, 0, count, 0, to);
    for (int32_t r = 0; !status && r < c->lots; r++)
        status = move(z, c, r, 0, count, (uint64_t)r * count, to);
    return status;
}

static zds_status write_cargo(zero *z, const cargo *c, const outlet *to)
{
    bool first = z->with.peers->rank == 0;
    zds_status status = settle(z, c);
    if (status)
        return status;
    if (c->spec.kind == ZDS_STATE_CONSTANT) {
        if (first && to->values)
            write_constant(z, c, to);
        return ZDS_OK;
    }
    const layout_span *span = &z->lay->spans[z->lay->places[c->param].span];
    if (c->state < 0 && !params_in_parts(z, span) &&
        (!layout_is_trained(span) || zero_is_master(z, span)))
        return first ? write_own(z, c, to) : ZDS_OK;
    if (is_whole(z, c))
        return write_whole(z, c, to);
    if (z->wish.stage == 0)
        return first ? move(z, c, 0, 0, all_units(z, c), 0, to) : ZDS_OK;
    for (int32_t r = 0; !status && r < z->with.peers->world_size; r++) {
        layout_piece own = layout_piece_of(z->lay, z->with.model, c->param, (uint32_t)r);
        if (own.count)
            status = move(z, c, r, unit_of(c, own.param_first), units(c, own.count), 0, to);
    }
    return status;
}

zds_status zero_write_values(zero *z, uint32_t param, int32_t state, zds_write_fn write, void *user,
                             zds_status *written)
{
    cargo c = cargo_of(z, param, state, false);
    return write_cargo(z, &c, &(outlet){.values = write, .user = user, .written = written});
}

zds_status zero_write_bytes(zero *z, uint32_t param, int32_t state, zds_write_bytes_fn write,
                            void *user, zds_status *written)
{
    cargo c = cargo_of(z, param, state, true);
    return write_cargo(z, &c, &(outlet){.bytes = write, .user = user, .written = written});
}

/* === in === */

/* Rank 0's staged units go to all. */
static zds_status share_staged(zero *z, const cargo *c, uint64_t count)
{
    static const char doing[] = "distributing values";
    peers *p = z->with.control;
    const zds_coll coll = {.struct_size = sizeof coll,
                           .tag = (uint64_t)c->param << 16 | (uint64_t)(c->state + 1) << 8 |
                                  (c->moves == ZDS_U8 ? 15 : 12),
                           .what = doing,
                           .src = z->params.staging,
                           .dst = z->params.staging,
                           .count = count,
                           .src_dtype = c->moves,
                           .dst_dtype = c->moves};
    return is_alone(z) ? ZDS_OK : peers_call(p, p->ops->broadcast, &coll, doing);
}

/* What this rank keeps of the staged units [first, first + count). */
static zds_status keep_own(zero *z, const cargo *c, uint64_t first, uint64_t count)
{
    const piece *p = z->stream.piece_of[c->param];
    uint64_t begin = first, end = first + count;
    zds_status status = ZDS_OK;
    if (!is_whole(z, c)) {
        uint64_t own = p ? unit_of(c, p->first) : end;
        begin = own > begin ? own : begin;
        end = p ? at_most(end, own + units(c, p->count)) : end;
    }
    for (uint64_t i = begin; !status && i < end;) {
        uint64_t n = end - i;
        bufref to;
        status = units_at(z, c, i, &n, &to);
        if (!status)
            status = unstage(z, c, to, i - first, n);
        if (!status && p && p->rests && !is_whole(z, c))
            status = records_keep(z);
        i += n;
    }
    return status;
}

/* The parameter as all see it: each rank's own, or the owner's part of the node's. */
static zds_status keep_param(zero *z, const cargo *trained, uint64_t first, uint64_t count)
{
    const piece *p = z->stream.piece_of[trained->param];
    const layout_piece kept = params_kept(z, trained->param);
    cargo c = *trained;
    uint64_t begin = kept.param_first > first ? kept.param_first : first,
             end = at_most(kept.param_first + kept.count, first + count);
    c.rests = params_at(z, c.param, 0).dtype;
    if (z->params.pages == PAGES_NODE) {
        begin = p && p->first > begin ? p->first : begin;
        end = p ? at_most(end, p->first + p->count) : begin;
    }
    return begin < end ? unstage(z, &c, params_at(z, c.param, begin), begin - first, end - begin)
                       : ZDS_OK;
}

static zds_status read_lot(zero *z, const cargo *c, int32_t lot, const inlet *from)
{
    uint64_t all = all_units(z, c), before = (uint64_t)lot * all;
    zds_status status = ZDS_OK;
    for (uint64_t k = 0; !status && k < all; k += STAGING_ELEMENTS) {
        uint64_t n = at_most(all - k, STAGING_ELEMENTS);
        if (z->with.peers->rank == 0)
            take(from, z, c, before + k, n);
        status = share_staged(z, c, n);
        if (!status && (c->lots == 1 || lot == z->with.peers->rank))
            status = keep_own(z, c, k, n);
        if (!status && c->state < 0)
            status = keep_param(z, c, k, n);
    }
    return status;
}

static zds_status read_cargo(zero *z, const cargo *c, const inlet *from)
{
    zds_status status = settle(z, c);
    z->stream.replaced = true;
    if (!status && c->state < 0)
        status = residency_forget(z, true);
    if (!status)
        status = params_seal(z, false);
    for (int32_t lot = 0; !status && lot < c->lots; lot++)
        status = read_lot(z, c, lot, from);
    return status ? status : params_seal(z, true);
}

zds_status zero_read_state(zero *z, uint32_t param, int32_t state, zds_read_fn read, void *user,
                           zds_status *read_status)
{
    cargo c = cargo_of(z, param, state, false);
    return read_cargo(z, &c, &(inlet){.values = read, .user = user, .read = read_status});
}

zds_status zero_read_bytes(zero *z, uint32_t param, int32_t state, zds_read_bytes_fn read,
                           void *user, zds_status *read_status)
{
    cargo c = cargo_of(z, param, state, true);
    return read_cargo(z, &c, &(inlet){.bytes = read, .user = user, .read = read_status});
}
