/* What this rank updates: its pieces of the parameters, and the memory of master weights and
 * optimizer states. */
#include <stdlib.h>
#include <string.h>

#include "zero/parts.h"

zds_state_spec stream_spec(const zero *z, uint32_t param, int32_t state)
{
    if (state >= 0)
        return z->with.params[param].needs.states[state];
    const layout_span *span = &z->lay->spans[z->lay->places[param].span];
    return (zds_state_spec){.kind = ZDS_STATE_ELEMENT,
                            .dtype = layout_is_trained(span) ? z->wish.master_dtype
                                                             : zero_dtype(z, span)};
}

uint64_t state_bytes(const zds_state_spec *spec, uint64_t count)
{
    if (spec->kind == ZDS_STATE_ELEMENT)
        return count * zds_dtype_size(spec->dtype);
    if (spec->kind == ZDS_STATE_BLOCK)
        return (count + spec->block - 1) / spec->block * spec->bytes;
    return 0;
}

uint64_t state_offset(const zds_state_spec *spec, uint64_t elements)
{
    if (spec->kind == ZDS_STATE_ELEMENT)
        return elements * zds_dtype_size(spec->dtype);
    return spec->kind == ZDS_STATE_BLOCK ? elements / spec->block * spec->bytes : 0;
}

/* What follows `bytes` in one allocation begins so much further on. */
static uint64_t padded(uint64_t bytes)
{
    return (bytes + 63) & ~(uint64_t)63;
}

static uint64_t gap_after(uint64_t bytes)
{
    return bytes >= LEDGER_LARGE ? LEDGER_STAGGER : 0;
}

/* Where masters and states are that do not rest elsewhere. */
static tier *resident(const zero *z)
{
    return zero_rests(z) ? z->with.tier : z->with.states_tier;
}

/* === states that no part cuts === */

static uint64_t whole_bytes(const zds_state_spec *spec, uint64_t numel)
{
    if (spec->kind == ZDS_STATE_TENSOR || spec->kind == ZDS_STATE_GLOBAL)
        return spec->bytes;
    return spec->scope == ZDS_SCOPE_RANK_LOCAL ? state_bytes(spec, numel) : 0;
}

/* GLOBAL states: one a name, whichever parameters describe it. */
typedef struct globals {
    struct {
        const char *name;
        uint64_t at;
    } * list;
    size_t count;
} globals;

/* Where the state of this name is, from now on `next` if it is new. False without memory. */
static bool global_at(globals *g, const char *name, uint64_t next, uint64_t *at)
{
    for (size_t i = 0; i < g->count; i++)
        if (strcmp(g->list[i].name, name) == 0) {
            *at = g->list[i].at;
            return true;
        }
    void *grown = realloc(g->list, (g->count + 1) * sizeof *g->list);
    if (!grown)
        return false;
    g->list = grown;
    g->list[g->count].name = name;
    g->list[g->count++].at = *at = next;
    return true;
}

/* Numbers the bytes of all of them. False without memory. */
static bool place_whole(zero *z, globals *g, uint64_t *total)
{
    for (uint32_t i = 0; i < z->with.model->param_count; i++) {
        const zds_param_needs *needs = &z->with.params[i].needs;
        for (uint32_t s = 0; s < ZDS_MAX_STATES; s++) {
            uint64_t *at = &z->stream.whole_at[(size_t)i * ZDS_MAX_STATES + s];
            *at = STREAM_NONE;
            uint64_t bytes = s < needs->state_count
                                 ? whole_bytes(&needs->states[s], z->with.model->params[i].numel)
                                 : 0;
            if (!bytes)
                continue;
            *at = *total;
            if (needs->states[s].kind == ZDS_STATE_GLOBAL &&
                !global_at(g, z->with.params[i].state_names[s], *total, at))
                return false;
            if (*at == *total)
                *total += padded(bytes) + gap_after(bytes);
        }
    }
    return true;
}

static zds_status whole_states(zero *z, zds_error *error)
{
    stream_part *t = &z->stream;
    uint64_t total = 0;
    globals g = {0};
    bool placed = place_whole(z, &g, &total);
    free(g.list);
    if (!placed)
        return zero_no_memory(error, "the list of states", 0);
    zds_status status =
        total ? zero_alloc_known(z, resident(z), &t->whole, "optimizer states", total, error)
              : ZDS_OK;
    for (size_t k = 0; !status && k < (size_t)z->with.model->param_count * ZDS_MAX_STATES; k++)
        if (t->whole_at[k] != STREAM_NONE)
            t->whole_states[k] = bufref_at((bufref){&t->whole.slab, t->whole_at[k], ZDS_U8}, 0);
    return status;
}

bufref stream_whole_state(const zero *z, uint32_t param, uint32_t state)
{
    uint64_t at = z->stream.whole_at[(size_t)param * ZDS_MAX_STATES + state];
    if (at == STREAM_NONE)
        return (bufref){0};
    return (bufref){&z->stream.whole.slab, at, z->with.params[param].needs.states[state].dtype};
}

/* === states of pieces === */

/* State `s` of a piece in `states`, from `*total` on; one that is whole is seen by its tiles as far
 * as this rank's part goes. */
static void place_state(zero *z, piece *p, uint32_t s, uint64_t *total)
{
    const zds_param_needs *needs = &z->with.params[p->param].needs;
    if (s >= needs->state_count)
        return;
    const zds_state_spec *spec = &needs->states[s];
    bufref whole = stream_whole_state(z, p->param, s);
    if (whole.slab) {
        whole.offset += state_offset(spec, p->first);
        p->states[s] = whole;
        return;
    }
    uint64_t bytes = p->rests ? 0 : padded(state_bytes(spec, p->count));
    if (bytes)
        p->states[s] = (bufref){&z->stream.states, *total, spec->dtype};
    *total += bytes;
}

/* All element and block states in one allocation, one state of all pieces after the other. */
static zds_status piece_states(zero *z, zds_error *error)
{
    uint64_t total = 0;
    for (uint32_t s = 0; s < ZDS_MAX_STATES; s++) {
        uint64_t before = total;
        for (uint32_t k = 0; k < z->stream.piece_count; k++)
            place_state(z, &z->stream.pieces[k], s, &total);
        total += gap_after(total - before);
    }
    return total ? zero_alloc(resident(z), &z->stream.states, "optimizer states", total, error)
                 : ZDS_OK;
}

/* === pieces === */

/* What this rank updates of a parameter: all at stage 0, else its part. */
static layout_piece owned(const zero *z, uint32_t param)
{
    layout_piece own = layout_piece_of(z->lay, z->with.model, param, (uint32_t)z->with.peers->rank);
    if (z->wish.stage == 0) {
        own.param_first = own.part_first = 0;
        own.count = z->with.model->params[param].numel;
    }
    return own;
}

void stream_refer(zero *z)
{
    for (uint32_t k = 0; k < z->stream.piece_count; k++) {
        layout_piece l = owned(z, z->stream.pieces[k].param);
        z->stream.pieces[k].grad = grads_of_piece(z, &l);
    }
}

/* `masters_at`: where the span's masters begin, of those that do not rest elsewhere. */
static void add_piece(zero *z, const layout_span *span, uint32_t param, uint64_t masters_at)
{
    stream_part *t = &z->stream;
    layout_piece l = owned(z, param);
    if (!l.count)
        return;
    piece *p = &t->pieces[t->piece_count++];
    t->piece_of[param] = p;
    *p = (piece){
        .param = param, .first = l.param_first, .count = l.count, .dtype = zero_dtype(z, span)};
    p->chunks = (size_t)((l.count + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK);
    p->master = p->output = params_at(z, param, l.param_first);
    p->away = z->params.away[z->lay->places[param].span];
    if (zero_is_master(z, span))
        p->output.slab = NULL;
    else
        p->master = bufref_of(
            &t->master, masters_at + (z->wish.stage ? l.part_first : z->lay->places[param].first),
            z->wish.master_dtype);
}

/* Of masters that rest elsewhere the first do, as many elements as the share of all. */
static uint64_t choose_resting(zero *z)
{
    uint64_t all = 0, resting = 0, masters = 0;
    for (uint32_t k = 0; k < z->stream.piece_count; k++)
        all += z->stream.pieces[k].count;
    for (uint32_t k = 0; k < z->stream.piece_count; k++) {
        piece *p = &z->stream.pieces[k];
        p->rests = (double)resting < z->wish.ratio * (double)all;
        if (p->rests) {
            resting += p->count;
            p->master.slab = NULL;
        } else {
            p->master = bufref_of(&z->stream.master, masters, z->wish.master_dtype);
            masters += (p->count + 15) / 16 * 16;
        }
    }
    return masters;
}

static zds_status pieces(zero *z, zds_error *error)
{
    uint64_t masters = 0; /* elements */
    for (uint32_t j = 0, n = z->lay->span_count; j < n; j++) {
        /* In the order of the pass: of backward, where it goes on beside that. */
        const layout_span *span = &z->lay->spans[z->wish.overlap_step ? n - 1 - j : j];
        if (!layout_is_trained(span))
            continue;
        for (uint32_t i = 0; i < span->param_count; i++)
            add_piece(z, span, span->params[i], masters);
        if (!zero_is_master(z, span))
            masters += z->wish.stage ? layout_part_count(span, (uint32_t)z->with.peers->rank)
                                     : span->count;
    }
    if (zero_rests(z))
        masters = choose_resting(z);
    return masters ? zero_alloc(resident(z), &z->stream.master, "master weights",
                                masters * zds_dtype_size(z->wish.master_dtype), error)
                   : ZDS_OK;
}

static zds_status lists(zero *z, zds_error *error)
{
    stream_part *t = &z->stream;
    size_t params = z->with.model->param_count + (size_t)1, whole = 1;
    for (uint32_t i = 0; i < z->with.model->param_count; i++)
        whole += z->with.params[i].needs.whole_tensor != 0;
    t->pieces = calloc(params, sizeof *t->pieces);
    t->piece_of = calloc(params, sizeof *t->piece_of);
    t->whole_at = calloc(params * ZDS_MAX_STATES, sizeof *t->whole_at);
    t->whole_states = calloc(params * ZDS_MAX_STATES, sizeof *t->whole_states);
    t->whole_tiles = calloc(whole, sizeof *t->whole_tiles);
    t->whole_tile_states = calloc(whole, sizeof *t->whole_tile_states);
    t->steps = calloc(params, sizeof *t->steps);
    if (z->with.optim->reduction_mode)
        t->collective_states = calloc(params * ZDS_MAX_STATES, sizeof *t->collective_states);
    return t->pieces && t->piece_of && t->whole_at && t->whole_states && t->whole_tiles &&
                   t->whole_tile_states && t->steps &&
                   (t->collective_states || !z->with.optim->reduction_mode)
               ? ZDS_OK
               : zero_no_memory(error, "the list of parameters", 0);
}

/* A thread's own; on a device, where one call follows the other, there is one. */
static zds_status scratches(zero *z, zds_error *error)
{
    stream_part *t = &z->stream;
    size_t threads = (size_t)pool_threads(z->with.threads);
    uint64_t bytes = padded(z->with.optim->scratch_bytes);
    size_t count = zero_is_here(z) ? threads : 1;
    t->scratch = calloc(threads, sizeof *t->scratch);
    if (!t->scratch)
        return zero_no_memory(error, "optimizer scratch", 0);
    zds_status status = ZDS_OK;
    if (bytes)
        status = zero_alloc(z->with.tier, &t->scratches, "optimizer scratch", count * bytes, error);
    for (size_t i = 0; !status && bytes && i < count; i++)
        t->scratch[i] = bufref_at((bufref){&t->scratches, i * bytes, ZDS_U8}, 0);
    return status;
}

/* What is not stepped tile by tile needs its masters, states and parameters where it is computed.
 */
static zds_status check_resting(const zero *z, zds_error *error)
{
    bool whole = z->with.optim->reduction_mode != NULL, states = zero_rests(z);
    for (uint32_t i = 0; i < z->with.model->param_count; i++)
        whole |= z->with.params[i].needs.whole_tensor != 0;
    if (!whole || !(states || zero_params_rest(z)))
        return ZDS_OK;
    return error_set(error, ZDS_ERR_UNSUPPORTED,
                     "optimizer %s updates whole parameters, or reduces gradients by itself, for "
                     "which %s must be where it computes, not in memory tier %s; delete "
                     "zero_optimization.%s",
                     z->with.optim_services->name, states ? "masters and states" : "parameters",
                     (states ? z->with.states_tier : z->with.params_tier)->name,
                     states ? "offload_optimizer" : "offload_param");
}

/* Each rank's own whole state cannot start as what no rank has whole. */
static zds_status check_starts(const zero *z, zds_error *error)
{
    for (uint32_t i = 0; i < z->with.model->param_count; i++) {
        const zds_param_needs *needs = &z->with.params[i].needs;
        bool in_parts = params_in_parts(z, &z->lay->spans[z->lay->places[i].span]);
        for (uint32_t s = 0; in_parts && s < needs->state_count; s++)
            if (needs->states[s].scope == ZDS_SCOPE_RANK_LOCAL &&
                needs->states[s].starts == ZDS_STARTS_AS_PARAM)
                return error_set(error, ZDS_ERR_UNSUPPORTED,
                                 "optimizer %s: state %s of %s is each rank's own and starts as "
                                 "the parameter, of which ranks keep parts at "
                                 "zero_optimization.stage 3; use stage 2",
                                 z->with.optim_services->name, z->with.params[i].state_names[s],
                                 z->with.model->params[i].name);
    }
    return ZDS_OK;
}

zds_status stream_create(zero *z, zds_error *error)
{
    zds_status status = check_resting(z, error);
    if (!status)
        status = overlap_create(z, error);
    if (!status)
        status = check_starts(z, error);
    if (!status)
        status = lists(z, error);
    if (!status)
        status = pieces(z, error);
    if (!status)
        status = scratches(z, error);
    if (!status)
        status = whole_states(z, error);
    if (!status)
        stream_refer(z);
    if (!status)
        status = norm_create(z, error);
    if (!status)
        status = piece_states(z, error);
    return !status && (zero_rests(z) || zero_params_rest(z)) ? records_create(z, error) : status;
}

void stream_destroy(zero *z)
{
    stream_part *t = &z->stream;
    overlap_destroy(z);
    records_destroy(z);
    norm_destroy(z);
    tier_free(&t->scratches);
    tier_free(&t->states);
    peers_free(z->with.peers, &t->whole);
    tier_free(&t->master);
    free(t->pieces);
    free(t->piece_of);
    free(t->whole_at);
    free(t->whole_states);
    free(t->whole_tiles);
    free(t->whole_tile_states);
    free(t->steps);
    free(t->collective_states);
    free(t->scratch);
}
