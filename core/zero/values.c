/* Values in and out: initial parameters from rank 0, trained ones and optimizer states back to it.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <string.h>

#include "host/kernels.h"
#include "zero/parts.h"

static uint64_t at_most(uint64_t count, uint64_t most)
{
    return count < most ? count : most;
}

/* === in === */

/* Some elements of a parameter go into this rank's memory, rounded to the parameter's type. */
static zds_status read_some(zero *z, uint32_t param, uint64_t first, uint64_t count,
                            zds_read_fn read, void *user, zds_status *read_status)
{
    bufref to = params_at(z, param, first);
    bool here = zero_is_here(z), direct = here && to.dtype == ZDS_F32;
    float *floats = direct ? bufref_at(to, 0) : z->params.staging;
    *read_status = read(user, param, first, count, floats);
    if (*read_status || direct)
        return ZDS_OK;
    kernel_convert(here ? bufref_at(to, 0) : z->params.raw, to.dtype, floats, ZDS_F32, count);
    return here ? ZDS_OK : zero_send(z, to, z->params.raw, count * zds_dtype_size(to.dtype));
}

static zds_status distribute(zero *z, zds_read_fn read, void *user, zds_status *read_status)
{
    static const char doing[] = "distributing initial values";
    peers *p = z->with.peers;
    zds_event *event = NULL;
    zds_status status = ZDS_OK;
    for (uint32_t i = 0; !status && i < z->with.model->param_count; i++) {
        uint64_t numel = z->with.model->params[i].numel;
        /* Rank 0 reads some while those before travel. */
        for (uint64_t k = 0; !status && k < numel; k += STAGING_ELEMENTS) {
            uint64_t n = at_most(numel - k, STAGING_ELEMENTS);
            if (p->rank == 0 && !*read_status)
                status = read_some(z, i, k, n, read, user, read_status);
            if (is_alone(z) || status)
                continue;
            status = peers_wait(p, &event, doing);
            if (status)
                break;
            bufref at = params_at(z, i, k);
            void *some = bufref_at(at, 0);
            zds_coll coll = {.struct_size = sizeof coll,
                             .tag = 5,
                             .what = doing,
                             .src = some,
                             .dst = some,
                             .count = n,
                             .src_dtype = at.dtype,
                             .dst_dtype = at.dtype,
                             .stream = z->queue};
            status = peers_issue(p, p->ops->broadcast, &coll, doing, &event);
            if (status)
                return status;
        }
    }
    return status ? status : peers_wait(p, &event, doing);
}

zds_status zero_read_values(zero *z, zds_read_fn read, void *user, zds_status *read_status)
{
    zds_status status = publish_await_all(z);
    if (!status)
        status = params_seal_all(z, false);
    if (!status)
        status = distribute(z, read, user, read_status);
    return status ? status : params_seal_all(z, true);
}

/* What of a parameter is in this rank's pages, or is for it to write into the node's. */
static layout_piece pages_of(const zero *z, uint32_t param)
{
    const peers *p = z->with.peers;
    uint64_t numel = z->with.model->params[param].numel, rank = (uint64_t)p->rank,
             size = (uint64_t)p->world_size, share = (numel + size - 1) / size,
             first = at_most(rank * share, numel);
    if (z->params.pages != PAGES_NODE)
        return (layout_piece){.param = param, .count = numel};
    return z->with.params[param].trainable
               ? layout_piece_of(z->lay, z->with.model, param, (uint32_t)rank)
               : (layout_piece){param, first, at_most(share, numel - first), 0};
}

/* Of a chunk that is another one in each parameter. */
static zds_status hash_some(zero *z, uint32_t param, zds_read_fn read, void *user, uint64_t *hash)
{
    uint64_t numel = z->with.model->params[param].numel,
             chunks = (numel + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK;
    if (!chunks)
        return ZDS_OK;
    uint64_t first = param % chunks * LAYOUT_CHUNK, n = at_most(numel - first, LAYOUT_CHUNK);
    zds_status status = read(user, param, first, n, z->params.staging);
    if (!status)
        *hash = XXH64(z->params.staging, n * sizeof *z->params.staging, param);
    return status;
}

static zds_status read_pages(zero *z, uint32_t param, zds_read_fn read, void *user,
                             zds_status *read_status)
{
    const layout_piece own = pages_of(z, param);
    zds_status status = ZDS_OK;
    for (uint64_t k = 0; !status && !*read_status && k < own.count; k += STAGING_ELEMENTS)
        status = read_some(z, param, own.param_first + k, at_most(own.count - k, STAGING_ELEMENTS),
                           read, user, read_status);
    return status;
}

zds_status zero_read_everywhere(zero *z, zds_read_fn read, void *user, uint64_t *hashes,
                                zds_status *read_status)
{
    zds_status status = publish_await_all(z);
    if (!status)
        status = params_seal_all(z, false);
    for (uint32_t i = 0; !status && !*read_status && i < z->with.model->param_count; i++) {
        status = read_pages(z, i, read, user, read_status);
        if (!status && !*read_status)
            *read_status = hash_some(z, i, read, user, &hashes[i]);
    }
    return status ? status : params_seal_all(z, true);
}

/* Rank 0's staged elements go to all. */
static zds_status share_staged(zero *z, uint64_t count)
{
    static const char doing[] = "distributing values";
    peers *p = z->with.control;
    const zds_coll coll = {.struct_size = sizeof coll,
                           .tag = 12,
                           .what = doing,
                           .src = z->params.staging,
                           .dst = z->params.staging,
                           .count = count};
    return is_alone(z) ? ZDS_OK : peers_call(p, p->ops->broadcast, &coll, doing);
}

zds_status zero_broadcast(zero *z, void *data, uint64_t bytes, int32_t root)
{
    static const char doing[] = "zds_broadcast";
    peers *p = z->with.control;
    const uint64_t room = STAGING_ELEMENTS * sizeof *z->params.staging;
    zds_status status = ZDS_OK;
    for (uint64_t at = 0; !status && !is_alone(z) && at < bytes; at += room) {
        uint64_t n = at_most(bytes - at, room);
        if (p->rank == root)
            memcpy(z->params.staging, (char *)data + at, n);
        const zds_coll coll = {.struct_size = sizeof coll,
                               .tag = 8,
                               .what = doing,
                               .src = z->params.staging,
                               .dst = z->params.staging,
                               .count = n,
                               .src_dtype = ZDS_U8,
                               .dst_dtype = ZDS_U8,
                               .peer = root};
        status = peers_call(p, p->ops->broadcast, &coll, doing);
        if (!status && p->rank != root)
            memcpy((char *)data + at, z->params.staging, n);
    }
    return status;
}

/* === out === */

/* Where elements of a parameter's master weight or state lie on this rank, from `first`; *count: at
 * most as many as lie together. */
static bufref source(const zero *z, uint32_t param, int32_t state, uint64_t first, uint64_t *count)
{
    const piece *p = z->stream.piece_of[param];
    bufref whole = state < 0 ? (bufref){0} : stream_whole_state(z, param, (uint32_t)state);
    if (whole.slab)
        return bufref_moved(whole, first);
    if (p->rests)
        return record_of(z, p, state, first - p->first, count);
    return bufref_moved(state < 0 ? p->master : p->states[state], first - p->first);
}

typedef struct outlet {
    zds_write_fn write;
    void *user;
    zds_status *written;
} outlet;

/* Some elements as floats in the staging, from its element `at` on. */
static zds_status stage(zero *z, bufref from, uint64_t at, uint64_t count)
{
    const void *here = zero_is_here(z) ? bufref_at(from, 0) : z->params.raw;
    zds_status status = ZDS_OK;
    if (!zero_is_here(z))
        status = zero_fetch(z, z->params.raw, from, count * zds_dtype_size(from.dtype));
    if (!status)
        kernel_convert(z->params.staging + at, ZDS_F32, here, from.dtype, count);
    return status;
}

/* The owner's staged elements go to rank 0. */
static zds_status carry(zero *z, uint32_t param, int32_t state, int32_t owner, uint64_t count)
{
    static const char doing[] = "collecting values";
    peers *p = z->with.control;
    bool direct = p->ops->send && p->ops->recv;
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = (uint64_t)param << 16 | (uint64_t)(state + 1) << 8 | 6,
                     .what = doing,
                     .src = z->params.staging,
                     .dst = z->params.staging,
                     .count = count,
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
static zds_status stage_own(zero *z, uint32_t param, int32_t state, uint64_t first, uint64_t count)
{
    zds_status status = zero_rests(z) ? records_settle(z) : ZDS_OK;
    for (uint64_t i = 0; !status && i < count;) {
        uint64_t n = count - i;
        bufref from = source(z, param, state, first + i, &n);
        status = stage(z, from, i, n);
        i += n;
    }
    return status;
}

/* One owner's elements [first, first + count) travel to rank 0 and are written there. */
static zds_status move(zero *z, uint32_t param, int32_t state, int32_t owner, uint64_t first,
                       uint64_t count, const outlet *to)
{
    for (uint64_t i = 0; i < count; i += STAGING_ELEMENTS) {
        uint64_t n = at_most(count - i, STAGING_ELEMENTS);
        zds_status status = ZDS_OK;
        if (z->with.peers->rank == owner)
            status = stage_own(z, param, state, first + i, n);
        if (!status)
            status = carry(z, param, state, owner, n);
        if (status)
            return status;
        if (z->with.peers->rank == 0 && !*to->written)
            *to->written = to->write(to->user, param, first + i, n, z->params.staging);
    }
    return ZDS_OK;
}

/* Parameters as the callers see them are the same everywhere: rank 0 has them already. */
static zds_status write_own(zero *z, uint32_t param, const outlet *to)
{
    uint64_t numel = z->with.model->params[param].numel;
    zds_status status = ZDS_OK;
    for (uint64_t i = 0; !status && !*to->written && i < numel; i += STAGING_ELEMENTS) {
        uint64_t n = at_most(numel - i, STAGING_ELEMENTS);
        status = stage(z, params_at(z, param, i), 0, n);
        if (!status)
            *to->written = to->write(to->user, param, i, n, z->params.staging);
    }
    return status;
}

/* A CONSTANT state rests nowhere. */
static void write_constant(zero *z, uint32_t param, double value, const outlet *to)
{
    uint64_t numel = z->with.model->params[param].numel;
    kernel_fill(z->params.staging, ZDS_F32, value, at_most(numel, STAGING_ELEMENTS));
    for (uint64_t i = 0; !*to->written && i < numel; i += STAGING_ELEMENTS)
        *to->written =
            to->write(to->user, param, i, at_most(numel - i, STAGING_ELEMENTS), z->params.staging);
}

zds_status zero_write_values(zero *z, uint32_t param, int32_t state, zds_write_fn write, void *user,
                             zds_status *written)
{
    const outlet to = {write, user, written};
    const zero_param *known = &z->with.params[param];
    uint64_t numel = z->with.model->params[param].numel;
    bool first = z->with.peers->rank == 0;
    zds_status status = publish_await_all(z);
    if (status)
        return status;
    if (state >= 0 && known->needs.states[state].kind == ZDS_STATE_CONSTANT) {
        if (first)
            write_constant(z, param, known->needs.states[state].initial, &to);
        return ZDS_OK;
    }
    if (state < 0 &&
        (!known->trainable || zero_is_master(z, &z->lay->spans[z->lay->places[param].span])))
        return first ? write_own(z, param, &to) : ZDS_OK;
    bool uncut = state >= 0 && !z->stream.own_states_cut &&
                 stream_whole_state(z, param, (uint32_t)state).slab;
    if (uncut || z->wish.stage == 0)
        return first ? move(z, param, state, 0, 0, numel, &to) : ZDS_OK;
    for (int32_t r = 0; !status && r < z->with.peers->world_size; r++) {
        layout_piece own = layout_piece_of(z->lay, z->with.model, param, (uint32_t)r);
        if (own.count)
            status = move(z, param, state, r, own.param_first, own.count, &to);
    }
    return status;
}

/* === in, of what an optimizer step has left === */

/* Staged elements, from the staging's element `at` on. */
static zds_status unstage(zero *z, bufref to, uint64_t at, uint64_t count)
{
    bool here = zero_is_here(z);
    kernel_convert(here ? bufref_at(to, 0) : z->params.raw, to.dtype, z->params.staging + at,
                   ZDS_F32, count);
    return here ? ZDS_OK : zero_send(z, to, z->params.raw, count * zds_dtype_size(to.dtype));
}

/* What this rank keeps of the staged elements [first, first + count) of a state, or of the master.
 */
static zds_status keep_own(zero *z, uint32_t param, int32_t state, uint64_t first, uint64_t count)
{
    const piece *p = z->stream.piece_of[param];
    zds_status status = ZDS_OK;
    if (!p)
        return ZDS_OK;
    uint64_t end = at_most(first + count, p->first + p->count);
    for (uint64_t i = p->first > first ? p->first : first; !status && i < end;) {
        uint64_t n = end - i;
        bufref to = source(z, param, state, i, &n);
        status = unstage(z, to, i - first, n);
        i += n;
    }
    return status;
}

/* The parameter as all see it: each rank's own, or the owner's part of the node's. */
static zds_status keep_param(zero *z, uint32_t param, uint64_t first, uint64_t count)
{
    const piece *p = z->stream.piece_of[param];
    uint64_t begin = first, end = first + count;
    if (z->params.pages == PAGES_NODE) {
        begin = p && p->first > begin ? p->first : begin;
        end = p ? at_most(end, p->first + p->count) : begin;
    }
    return begin < end ? unstage(z, params_at(z, param, begin), begin - first, end - begin)
                       : ZDS_OK;
}

static zds_status read_state(zero *z, uint32_t param, int32_t state, zds_read_fn read, void *user,
                             zds_status *read_status)
{
    uint64_t numel = z->with.model->params[param].numel;
    zds_status status = ZDS_OK;
    for (uint64_t k = 0; !status && k < numel; k += STAGING_ELEMENTS) {
        uint64_t n = at_most(numel - k, STAGING_ELEMENTS);
        if (z->with.peers->rank == 0 && !*read_status)
            *read_status = read(user, param, k, n, z->params.staging);
        status = share_staged(z, n);
        if (!status)
            status = keep_own(z, param, state, k, n);
        if (!status && state < 0)
            status = keep_param(z, param, k, n);
    }
    return status;
}

zds_status zero_read_state(zero *z, uint32_t param, int32_t state, zds_read_fn read, void *user,
                           zds_status *read_status)
{
    zds_status status = publish_await_all(z);
    if (!status && zero_rests(z))
        status = records_settle(z);
    if (!status)
        status = params_seal(z, false);
    if (!status)
        status = read_state(z, param, state, read, user, read_status);
    return status ? status : params_seal(z, true);
}
