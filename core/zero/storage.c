/* The engine's memory: parameters, gradients, master weights and states where the stage puts them,
 * and the tiles over them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/internal.h"
#include "host/error.h"

static char *at(const void *base, uint64_t elements, zds_dtype dtype)
{
    return (char *)(uintptr_t)base + elements * zds_dtype_size(dtype);
}

static zds_status no_memory(zds_error *error, const char *what, uint64_t bytes)
{
    return error_set(error, ZDS_ERR_MEMORY,
                     "no memory for %s (%llu bytes on this rank); a higher zero_optimization.stage "
                     "or more ranks need less",
                     what, (unsigned long long)bytes);
}

/* A region of the comm plugin, entered in the ledger. */
static zds_status region(zds_engine *e, zds_region *r, const char *purpose, uint64_t elements,
                         zds_dtype dtype, int32_t kind, zds_error *error)
{
    uint64_t bytes = elements * zds_dtype_size(dtype);
    if (!bytes)
        bytes = 64;
    *r = (zds_region){.struct_size = sizeof *r};
    services_clear(&e->comm_services);
    uint64_t staggered = bytes + (bytes >= LEDGER_LARGE ? LEDGER_STAGGER : 0);
    zds_status status = e->comm.mem_alloc(e->comm_self, staggered, kind, r);
    if (status)
        return error_set(error, status, "no memory for %s (%llu bytes): %s", purpose,
                         (unsigned long long)bytes, services_error(&e->comm_services));
    ledger_note(e->ledger, purpose, "host", (int64_t)bytes,
                kind == ZDS_MEM_SHARED && e->place.world_size > 1 ? (int64_t)bytes : 0);
    return ZDS_OK;
}

/* At stage 0, or alone, no peer reads a rank's parameters: its own memory may be of huge pages,
 * which shared memory seldom is, and matrix products walk over many rows at a time. */
static bool are_params_private(const zds_engine *e)
{
    return e->set.stage == 0 || e->place.world_size == 1;
}

static zds_status private_params(zds_engine *e, zds_error *error)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t bytes = e->lay->total * zds_dtype_size(e->set.param_dtype);
    bytes = (bytes + page - 1) / page * page; /* nothing else is sealed with them */
    void *base = ledger_alloc(e->ledger, "parameters", bytes, page);
    if (!base)
        return no_memory(error, "parameters", bytes);
    e->params = (zds_region){
        .struct_size = sizeof e->params, .base = base, .read_only = base, .bytes = bytes};
    return ZDS_OK;
}

zds_status storage_seal(zds_engine *e, bool sealed)
{
    if (!are_params_private(e) || e->set.stage == 0 || !e->params.base)
        return ZDS_OK; /* written by their callers, or readers have an address of their own */
    int rights = sealed ? PROT_READ : PROT_READ | PROT_WRITE;
    if (mprotect(e->params.base, e->params.bytes, rights) == 0)
        return ZDS_OK;
    return engine_fail(e, ZDS_ERR_MEMORY,
                       "the rights of the parameters' pages cannot be changed: %s",
                       strerror(errno));
}

static zds_status regions(zds_engine *e, zds_error *error)
{
    settings *set = &e->set;
    const layout *l = e->lay;
    e->pooled = set->stage >= 2 || set->accum_dtype != set->param_dtype;
    e->fused = (e->comm.flags & ZDS_COMM_FUSED) && set->reduce_scatter;
    if (!(e->comm.reduce_dtypes & ZDS_DTYPE_BIT(set->comm_dtype)))
        set->comm_dtype = ZDS_F32; /* what every plugin reduces */
    zds_dtype source = set->stage >= 2 ? set->param_dtype : set->accum_dtype;
    /* Whoever adds up in fp32 gains nothing from travelling as fp32. */
    e->staged = set->comm_dtype != source && !(e->fused && set->comm_dtype == ZDS_F32);
    e->params_shared = !are_params_private(e) && (e->comm.flags & ZDS_COMM_NODE_SHARED) &&
                       e->place.local_world_size == e->place.world_size;
    zds_status s = are_params_private(e)
                       ? private_params(e, error)
                       : region(e, &e->params, "parameters", l->total, set->param_dtype,
                                e->params_shared ? ZDS_MEM_SHARED : ZDS_MEM_SYMMETRIC, error);
    if (!s && set->stage < 2)
        s = region(e, &e->grads, "gradients", l->trainable, set->accum_dtype, ZDS_MEM_SYMMETRIC,
                   error);
    if (!s && e->pooled)
        s = region(e, &e->pool, "reduce buffers", l->pool, set->param_dtype, ZDS_MEM_SYMMETRIC,
                   error);
    if (!s && e->staged)
        s = region(e, &e->travel, "reduce buffers", l->largest, set->comm_dtype, ZDS_MEM_SYMMETRIC,
                   error);
    uint64_t row = sizeof(exchange_row) + e->model->param_count;
    if (row < e->norm_count * sizeof(double))
        row = e->norm_count * sizeof(double);
    if (row < CONTROL_DOUBLES * sizeof(double))
        row = CONTROL_DOUBLES * sizeof(double);
    row = (row + 63) & ~(uint64_t)63;
    if (!s)
        s = region(e, &e->control, "control", row * ((uint64_t)e->place.world_size + 1), ZDS_U8,
                   ZDS_MEM_SYMMETRIC, error);
    return s;
}

static zds_status private_memory(zds_engine *e, zds_error *error)
{
    const settings *set = &e->set;
    const layout *l = e->lay;
    if (set->stage >= 2) {
        uint64_t bytes = l->shard * zds_dtype_size(set->accum_dtype);
        e->slices = ledger_alloc(e->ledger, "gradients", bytes, 0);
        if (!e->slices)
            return no_memory(error, "gradients", bytes);
    }
    if (set->param_dtype != set->master_dtype) {
        uint64_t bytes = (set->stage ? l->shard : l->trainable) * sizeof(float);
        e->master = ledger_alloc_in(e->ledger, "master weights", set->state_tier, bytes, 0);
        if (!e->master)
            return no_memory(error, "master weights", bytes);
    }
    e->staging = ledger_alloc(e->ledger, "staging", STAGING_ELEMENTS * sizeof(float), 0);
    size_t threads = (size_t)pool_threads(e->threads);
    e->scratch = calloc(threads, sizeof *e->scratch);
    if (!e->staging || !e->scratch)
        return no_memory(error, "staging", STAGING_ELEMENTS * sizeof(float));
    for (size_t i = 0; i < threads && e->optim.scratch_bytes; i++) {
        e->scratch[i] = ledger_alloc(e->ledger, "optimizer scratch", e->optim.scratch_bytes, 0);
        if (!e->scratch[i])
            return no_memory(error, "optimizer scratch", e->optim.scratch_bytes);
    }
    return ZDS_OK;
}

/* Sums over whole tensors, for optimizers that scale by them. */
static zds_status norm_sums(zds_engine *e, zds_error *error)
{
    e->norm_sums = ledger_alloc(e->ledger, "norm", e->norm_count * sizeof(double), 0);
    if (!e->norm_sums)
        return no_memory(error, "norms of tensors", e->norm_count * sizeof(double));
    double *next = e->norm_sums;
    for (uint32_t i = 0; i < e->model->param_count; i++) {
        e->param_runs[i].sums = next;
        next += e->param_runs[i].needs.tensor_norms;
    }
    for (uint32_t k = 0; k < e->piece_count; k++) {
        owned_piece *p = &e->pieces[k];
        uint32_t norms = e->param_runs[p->param].needs.tensor_norms;
        p->chunks = (p->count + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK;
        if (norms) {
            uint64_t bytes = norms * p->chunks * sizeof(double);
            p->chunk_sums = ledger_alloc(e->ledger, "norm", bytes, 0);
            if (!p->chunk_sums)
                return no_memory(error, "norms of tensors", bytes);
        }
    }
    return ZDS_OK;
}

/* What this rank updates of a parameter: all at stage 0, else its slice. */
static layout_piece owned(const zds_engine *e, uint32_t param)
{
    if (e->set.stage == 0)
        return (layout_piece){.param = param, .count = e->model->params[param].numel};
    return layout_piece_of(e->lay, e->model, param, (uint32_t)e->place.rank);
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

static uint64_t padded(uint64_t bytes)
{
    return (bytes + 63) & ~(uint64_t)63;
}

/* All element and block states in one allocation, one state of all pieces after the other. */
static zds_status states(zds_engine *e, zds_error *error)
{
    char *base = NULL;
    for (bool place = false;; place = true) {
        uint64_t total = 0;
        for (uint32_t s = 0; s < ZDS_MAX_STATES; s++) {
            uint64_t before = total;
            for (uint32_t k = 0; k < e->piece_count; k++) {
                owned_piece *p = &e->pieces[k];
                const zds_param_needs *needs = &e->param_runs[p->param].needs;
                char *whole = e->param_runs[p->param].whole_states[s];
                uint64_t bytes = s < needs->state_count && !whole
                                     ? padded(state_bytes(&needs->states[s], p->count))
                                     : 0;
                if (place && whole) /* of a RANK_LOCAL one the tiles see this rank's slice */
                    p->states[s] = whole + state_offset(&needs->states[s], p->param_first);
                else if (place)
                    p->states[s] = bytes ? base + total : NULL;
                total += bytes;
            }
            total += total - before >= LEDGER_LARGE ? LEDGER_STAGGER : 0;
        }
        if (place)
            return ZDS_OK;
        if (total &&
            !(base = ledger_alloc_in(e->ledger, "optimizer states", e->set.state_tier, total, 0)))
            return no_memory(error, "optimizer states", total);
    }
}

/* Of a state that no slice cuts; 0 for one that is cut. */
static uint64_t whole_bytes(const zds_state_spec *spec, uint64_t numel)
{
    if (spec->kind == ZDS_STATE_TENSOR || spec->kind == ZDS_STATE_GLOBAL)
        return spec->bytes;
    return spec->scope == ZDS_SCOPE_RANK_LOCAL ? state_bytes(spec, numel) : 0;
}

/* States that no slice cuts: RANK_LOCAL ones, TENSOR ones, one a parameter, and GLOBAL ones, one a
 * name. */
static zds_status whole_states(zds_engine *e, zds_error *error)
{
    for (uint32_t i = 0; i < e->model->param_count; i++) {
        param_run *run = &e->param_runs[i];
        for (uint32_t s = 0; s < run->needs.state_count; s++) {
            const zds_state_spec *spec = &run->needs.states[s];
            global_state *global =
                spec->kind == ZDS_STATE_GLOBAL ? global_find(e, run->state_names[s]) : NULL;
            void **state = global ? &global->state : &run->whole_states[s];
            uint64_t bytes = whole_bytes(spec, e->model->params[i].numel);
            if (bytes && !*state)
                *state =
                    ledger_alloc_in(e->ledger, "optimizer states", e->set.state_tier, bytes, 0);
            if (bytes && !*state)
                return no_memory(error, "optimizer states", bytes);
            run->whole_states[s] = *state;
        }
    }
    return ZDS_OK;
}

static zds_status pieces(zds_engine *e, zds_error *error)
{
    const settings *set = &e->set;
    e->pieces = calloc(e->model->param_count + (size_t)1, sizeof *e->pieces);
    if (!e->pieces)
        return no_memory(error, "the list of pieces", 0);
    for (uint32_t k = 0; k < e->lay->span_count; k++) {
        const layout_span *span = &e->lay->spans[k];
        for (uint32_t i = 0; i < span->param_count; i++) {
            uint32_t param = span->params[i];
            layout_piece piece = owned(e, param);
            if (!piece.count)
                continue;
            uint64_t first = e->lay->places[param].first + piece.param_first;
            uint64_t shard = set->stage ? span->shard_first + piece.part_first : first;
            owned_piece *p = &e->pieces[e->piece_count++];
            e->param_runs[param].piece = p;
            *p = (owned_piece){
                .param = param, .param_first = piece.param_first, .count = piece.count};
            p->grad = set->stage >= 2 ? at(e->slices, shard, set->accum_dtype)
                                      : at(e->grads.base, first, set->accum_dtype);
            p->master = e->master ? (void *)(e->master + shard)
                                  : at(e->params.base, first, set->param_dtype);
            p->output = e->master ? at(e->params.base, first, set->param_dtype) : NULL;
        }
    }
    return ZDS_OK;
}

/* Elements of a full tile of a parameter: whole chunks of the norm and whole blocks, or all. */
static uint64_t tile_elements(const zds_engine *e, uint32_t param)
{
    if (e->param_runs[param].needs.whole_tensor)
        return e->model->params[param].numel;
    uint64_t block = e->param_runs[param].needs.granularity;
    uint64_t unit = LAYOUT_CHUNK;
    while (block > 1 && unit % block)
        unit += LAYOUT_CHUNK;
    return unit >= TILE_ELEMENTS ? unit : TILE_ELEMENTS / unit * unit;
}

static zds_status tiles(zds_engine *e, zds_error *error)
{
    size_t count = 0, whole = 0;
    for (uint32_t k = 0; k < e->piece_count; k++) {
        uint64_t size = tile_elements(e, e->pieces[k].param);
        count += (e->pieces[k].count + size - 1) / size;
        whole += e->param_runs[e->pieces[k].param].needs.whole_tensor != 0;
    }
    e->whole_tiles = calloc(whole + 1, sizeof *e->whole_tiles);
    e->tiles = calloc(count + 1, sizeof *e->tiles);
    e->tile_states = calloc(count + 1, sizeof *e->tile_states);
    e->batches = calloc(count + 1, sizeof *e->batches);
    if (!e->whole_tiles || !e->tiles || !e->tile_states || !e->batches || count > UINT32_MAX)
        return no_memory(error, "the list of tiles", count * sizeof *e->tiles);
    for (uint32_t k = 0; k < e->piece_count; k++) {
        owned_piece *p = &e->pieces[k];
        const param_run *run = &e->param_runs[p->param];
        uint64_t size = tile_elements(e, p->param);
        p->tile_first = e->tile_count;
        for (uint64_t i = 0; i < p->count; i += size) {
            void **list = e->tile_states[e->tile_count];
            zds_tile *t = &e->tiles[e->tile_count++];
            *t = (zds_tile){.struct_size = sizeof *t,
                            .param = &run->desc,
                            .hyper = &e->hypers[run->hyper],
                            .first = p->param_first + i,
                            .count = p->count - i < size ? p->count - i : size,
                            .master_dtype = e->set.master_dtype,
                            .grad_dtype = e->set.accum_dtype,
                            .output_dtype = e->set.param_dtype};
            t->master = at(p->master, i, e->set.master_dtype);
            t->grad = at(p->grad, i, e->set.accum_dtype);
            t->output = p->output ? at(p->output, i, e->set.param_dtype) : NULL;
            t->sums = run->sums;
            t->chunk_sums = p->chunk_sums ? p->chunk_sums + i / LAYOUT_CHUNK : NULL;
            t->chunk_stride = p->chunks;
            t->states = list;
            for (uint32_t s = 0; s < run->needs.state_count; s++) {
                list[s] = p->states[s]
                              ? (char *)p->states[s] + state_offset(&run->needs.states[s], i)
                              : NULL;
            }
        }
        p->tile_count = e->tile_count - p->tile_first;
    }
    return ZDS_OK;
}

/* Lists for the optimizer's calls over whole parameters. */
static zds_status param_steps(zds_engine *e, zds_error *error)
{
    size_t count = e->model->param_count + (size_t)1;
    uint64_t largest = 1;
    e->param_steps = calloc(count, sizeof *e->param_steps);
    if (!e->param_steps)
        return no_memory(error, "the list of parameters", count * sizeof *e->param_steps);
    if (!e->optim.reduction_mode)
        return ZDS_OK;
    for (uint32_t i = 0; i < e->model->param_count; i++)
        if (e->param_runs[i].trainable && e->model->params[i].numel > largest)
            largest = e->model->params[i].numel;
    size_t parts = (size_t)((largest + TILE_ELEMENTS - 1) / TILE_ELEMENTS);
    e->own_parts = ledger_alloc(e->ledger, "norm", parts * sizeof *e->own_parts, 0);
    e->collective_states = calloc(count * ZDS_MAX_STATES, sizeof *e->collective_states);
    return e->own_parts && e->collective_states
               ? ZDS_OK
               : no_memory(error, "the norm", parts * sizeof *e->own_parts);
}

/* What the reduction of a span needs: room for its events, and the parameters inside this rank's
 * part, which the norm counts. */
static zds_status segments(zds_engine *e, uint32_t k, zds_error *error)
{
    const layout_span *span = &e->lay->spans[k];
    span_run *run = &e->span_runs[k];
    run->segments = calloc(span->param_count + (size_t)1, sizeof *run->segments);
    size_t room = span->parts ? e->lay->world_size : 1;
    run->events = calloc(room, sizeof(zds_event *));
    run->event_count = run->events ? room : 0;
    if (!run->segments || !run->events)
        return no_memory(error, "the reduction of a span", 0);
    for (uint32_t i = 0; i < span->param_count; i++) {
        layout_piece piece =
            layout_piece_of(e->lay, e->model, span->params[i], (uint32_t)e->place.rank);
        if (!piece.count)
            continue;
        run->segments[run->segment_count++] =
            (zds_segment){.first = piece.part_first, .count = piece.count};
        run->chunk_count += (piece.count + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK;
    }
    run->chunk_sums = ledger_alloc(e->ledger, "norm", run->chunk_count * sizeof(double), 0);
    return run->chunk_sums ? ZDS_OK
                           : no_memory(error, "the norm", run->chunk_count * sizeof(double));
}

static zds_status modules(zds_engine *e, zds_error *error)
{
    e->module_runs = calloc(e->model->module_count + (size_t)1, sizeof *e->module_runs);
    if (!e->module_runs)
        return no_memory(error, "modules", 0);
    for (uint32_t m = 0; m < e->model->module_count; m++) {
        const model_module *module = &e->model->modules[m];
        module_run *run = &e->module_runs[m];
        run->slot_count = module->home_count + module->use_count;
        run->slots = calloc(run->slot_count + (size_t)1, sizeof *run->slots);
        run->none = calloc(run->slot_count + (size_t)1, sizeof *run->none);
        if (!run->slots || !run->none)
            return no_memory(error, "modules", 0);
        const void *base = e->set.stage ? e->params.read_only : e->params.base;
        for (uint32_t i = 0; i < run->slot_count; i++) {
            uint32_t param = module->params[i];
            run->slots[i] =
                (zds_slot){.param = param,
                           .dtype = e->set.param_dtype,
                           .space = e->params.space,
                           .count = e->model->params[param].numel,
                           .data = at(base, e->lay->places[param].first, e->set.param_dtype)};
        }
    }
    return ZDS_OK;
}

zds_status storage_create(zds_engine *e, zds_error *error)
{
    e->span_runs = calloc(e->lay->span_count + (size_t)1, sizeof *e->span_runs);
    e->in_flight = calloc(e->lay->span_count + (size_t)1, sizeof *e->in_flight);
    if (!e->span_runs || !e->in_flight)
        return no_memory(error, "spans", 0);
    for (uint32_t i = 0; i < e->model->param_count; i++)
        e->norm_count += e->param_runs[i].needs.tensor_norms;
    zds_status s = regions(e, error);
    if (!s)
        s = private_memory(e, error);
    if (!s)
        s = whole_states(e, error);
    if (!s)
        s = pieces(e, error);
    if (!s)
        s = norm_sums(e, error);
    if (!s)
        s = states(e, error);
    if (!s && !e->planned)
        s = tiles(e, error);
    if (!s)
        s = param_steps(e, error);
    for (uint32_t k = 0; !s && k < e->lay->span_count; k++)
        s = segments(e, k, error);
    return s || e->planned ? s : modules(e, error);
}

void storage_destroy(zds_engine *e)
{
    storage_seal(e, false);
    if (are_params_private(e))
        e->params.base = NULL; /* goes with the ledger */
    zds_region *regions_held[] = {&e->control, &e->travel, &e->pool, &e->grads, &e->params};
    for (size_t i = 0; i < sizeof regions_held / sizeof *regions_held; i++)
        if (regions_held[i]->base)
            e->comm.mem_free(e->comm_self, regions_held[i]);
    for (uint32_t k = 0; e->span_runs && k < e->lay->span_count; k++) {
        free(e->span_runs[k].segments);
        free(e->span_runs[k].events);
    }
    for (uint32_t m = 0; e->module_runs && m < e->model->module_count; m++) {
        free(e->module_runs[m].slots);
        free(e->module_runs[m].none);
    }
    free(e->tiles);
    free(e->tile_states);
    free(e->whole_tiles);
    free(e->batches);
    free(e->pieces);
    free(e->span_runs);
    free(e->in_flight);
    free(e->module_runs);
    free(e->scratch);
    free(e->param_steps);
    free(e->collective_states);
}
