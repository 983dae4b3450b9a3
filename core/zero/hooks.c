/* A step over arrays and cuts of the caller's: a zero whose memory is only planned gets pieces that
 * refer to those arrays. */
#include "zero/hooks.h"

#include <stdlib.h>

#include "zero/parts.h"

enum { ARRAYS = 3 + ZDS_MAX_STATES }; /* of a parameter */

struct hooked {
    hooked_setup setup;
    ledger *ledger;
    pool *threads;
    services services; /* of the optimizer and the connection, which have hosts of their own */
    failure failure;
    tier *tier;
    zds_comm_ops comm;
    peers peers;
    zero *zero;
    slab *slabs;   /* [params][ARRAYS]: the caller's arrays */
    piece *pieces; /* of the step */
    double *norms; /* likewise */
};

uint64_t hooked_state_bytes(const zds_state_spec *spec, uint64_t numel)
{
    bool fixed = spec->kind == ZDS_STATE_TENSOR || spec->kind == ZDS_STATE_GLOBAL;
    return fixed ? spec->bytes : state_bytes(spec, numel);
}

static zds_status create_zero(hooked *h, zds_error *error)
{
    const hooked_setup *s = &h->setup;
    const zero_means means = {.model = s->model,
                              .params = s->params,
                              .hypers = s->hypers,
                              .optim = s->optim,
                              .optim_self = s->optim_self,
                              .optim_services = &h->services,
                              .peers = &h->peers,
                              .control = &h->peers,
                              .tier = h->tier,
                              .states_tier = h->tier,
                              .params_tier = h->tier,
                              .host_tier = h->tier,
                              .threads = h->threads,
                              .ledger = h->ledger,
                              .failure = &h->failure};
    h->peers = (peers){.ops = &h->comm,
                       .services = &h->services,
                       .failure = &h->failure,
                       .tier = h->tier,
                       .rank = s->rank,
                       .world_size = s->world_size,
                       .one_node = true};
    peers_init(&h->peers);
    return zero_create(&s->wish, &means, &h->zero, error);
}

zds_status hooked_create(const hooked_setup *setup, hooked **out, zds_error *error)
{
    hooked *h = calloc(1, sizeof *h);
    size_t params = setup->model->param_count;
    if (!h)
        return zero_no_memory(error, "a step", 0);
    h->setup = *setup;
    h->ledger = ledger_create();
    h->slabs = calloc(params * ARRAYS + 1, sizeof *h->slabs);
    zds_status status = h->ledger && h->slabs ? ZDS_OK : zero_no_memory(error, "a step", 0);
    if (!status)
        status = pool_create(1, NULL, &h->threads, error);
    if (!status) {
        ledger_count_only(h->ledger);
        services_init(&h->services, "hooked", setup->rank, h->ledger, h->threads);
        status = tier_plan("hooked", (zds_device){.space = ZDS_SPACE_HOST}, h->ledger, h->threads,
                           &h->tier, error);
    }
    if (!status)
        status = create_zero(h, error);
    if (status)
        hooked_destroy(h);
    else
        *out = h;
    return status;
}

void hooked_destroy(hooked *h)
{
    if (!h)
        return;
    zero_destroy(h->zero);
    peers_destroy(&h->peers);
    tier_close(h->tier);
    services_destroy(&h->services);
    pool_destroy(h->threads);
    ledger_destroy(h->ledger);
    failure_clear(&h->failure);
    free(h->slabs);
    free(h->pieces);
    free(h->norms);
    free(h);
}

/* === memory === */

static bool is_whole(const zds_state_spec *spec)
{
    return spec->kind == ZDS_STATE_TENSOR || spec->kind == ZDS_STATE_GLOBAL ||
           spec->scope == ZDS_SCOPE_RANK_LOCAL;
}

static void refer(hooked *h, const hooked_arrays *arrays)
{
    void **whole = h->zero->stream.whole_states;
    for (uint32_t i = 0; i < h->setup.model->param_count; i++) {
        const hooked_arrays *a = &arrays[i];
        const zds_param_needs *needs = &h->setup.params[i].needs;
        slab *s = &h->slabs[(size_t)i * ARRAYS];
        s[0].block.pointer = a->master;
        s[1].block.pointer = (void *)(uintptr_t)a->grad;
        s[2].block.pointer = a->output;
        for (uint32_t k = 0; k < needs->state_count; k++) {
            s[3 + k].block.pointer = a->states[k];
            whole[(size_t)i * ZDS_MAX_STATES + k] =
                is_whole(&needs->states[k]) ? a->states[k] : NULL;
        }
    }
}

/* What a piece's arrays are, from its first element on. */
static void place(hooked *h, piece *p)
{
    const zds_param_needs *needs = &h->setup.params[p->param].needs;
    const zero_wishes *wish = &h->zero->wish;
    const slab *s = &h->slabs[(size_t)p->param * ARRAYS];
    p->chunks = (size_t)((p->count + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK);
    p->master = bufref_of(&s[0], p->first, wish->master_dtype);
    p->grad = bufref_of(&s[1], p->first, wish->accum_dtype);
    p->dtype = wish->param_dtype;
    p->output = (bufref){0};
    if (zero_has_output(h->zero))
        p->output = bufref_of(&s[2], p->first, wish->param_dtype);
    for (uint32_t k = 0; k < needs->state_count; k++)
        p->states[k] =
            (bufref){&s[3 + k], state_offset(&needs->states[k], p->first), needs->states[k].dtype};
}

/* Room for the sums of these pieces' chunks. */
static zds_status place_norms(hooked *h)
{
    stream_part *t = &h->zero->stream;
    if (!t->norm_count)
        return ZDS_OK;
    norm_destroy(h->zero);
    t->norm_count = 0;
    zds_status status = norm_create(h->zero, NULL);
    free(h->norms);
    h->norms = calloc(t->norm_doubles + 1, sizeof *h->norms);
    t->norms.block.pointer = t->sums = h->norms;
    return status || h->norms ? status : ZDS_ERR_MEMORY;
}

zds_status hooked_prepare(hooked *h, const hooked_arrays *arrays)
{
    refer(h, arrays);
    return zero_prepare(h->zero, NULL);
}

/* === a step === */

static zds_status take_threads(hooked *h, int32_t threads)
{
    if (pool_threads(h->threads) == threads)
        return ZDS_OK;
    pool *other;
    zds_status status = pool_create(threads, NULL, &other, NULL);
    if (status)
        return status;
    pool_destroy(h->threads);
    h->threads = h->services.threads = h->zero->with.threads = other;
    return ZDS_OK;
}

static zds_status take_pieces(hooked *h, const hooked_step *s)
{
    free(h->pieces);
    h->pieces = calloc(s->run_count + 1, sizeof *h->pieces);
    if (!h->pieces)
        return ZDS_ERR_MEMORY;
    for (size_t k = 0; k < s->run_count; k++) {
        h->pieces[k].param = s->runs[k].param;
        h->pieces[k].first = s->runs[k].first;
        h->pieces[k].count = s->runs[k].count;
        place(h, &h->pieces[k]);
    }
    h->zero->stream.pieces = h->pieces;
    h->zero->stream.piece_count = (uint32_t)s->run_count;
    return place_norms(h);
}

/* All but the memory that is put back afterwards. */
static zds_status run(hooked *h, const hooked_step *s)
{
    zero *z = h->zero;
    stream_part *t = &z->stream;
    refer(h, s->arrays);
    for (uint32_t k = 0; k < t->piece_count; k++) /* what step_collective gets, whole */
        place(h, &t->pieces[k]);
    for (uint32_t i = 0; i < h->setup.model->param_count; i++)
        z->grads.present[i] = true;
    zds_status status = take_threads(h, s->threads);
    if (!status)
        status = take_pieces(h, s);
    t->scratch = (void **)(uintptr_t)s->scratch;
    z->wish.tile = s->tile;
    z->local = s->local;
    if (s->local) {
        h->comm = *s->comm;
        h->peers.self = s->comm_self;
    }
    return status ? status : zero_update(z, s->step, s->grad_scale);
}

zds_status hooked_step_make(hooked *h, const hooked_step *s)
{
    stream_part *t = &h->zero->stream;
    piece *pieces = t->pieces;
    void **scratch = t->scratch;
    uint32_t count = t->piece_count;
    zds_status status = run(h, s);
    t->pieces = pieces;
    t->piece_count = count;
    t->scratch = scratch;
    return status;
}
