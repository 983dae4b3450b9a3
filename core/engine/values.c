/* Values in and out: initial parameters from rank 0, trained ones and optimizer states back to it.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/kernels.h"

static char *param_at(const zds_engine *e, uint64_t element)
{
    return (char *)e->params.base + element * zds_dtype_size(e->set.param_dtype);
}

/* A piece of a parameter goes into rank 0's pages, rounded to the parameter's type. */
static zds_status read_piece(zds_engine *e, uint32_t param, uint64_t first, uint64_t count,
                             zds_read_fn read, void *user)
{
    char *to = param_at(e, e->lay->places[param].first + first);
    bool direct = e->set.param_dtype == ZDS_F32;
    float *floats = direct ? (float *)(void *)to : e->staging;
    zds_status status = read(user, param, first, count, floats);
    if (!status && !direct)
        kernel_convert(to, e->set.param_dtype, floats, ZDS_F32, count);
    return status;
}

/* All parameters travel from rank 0, a piece while it reads the next; in shared pages nothing
 * moves. Where reading fails the rest travels as it is: `read_status` tells. */
static zds_status distribute(zds_engine *e, zds_read_fn read, void *user, zds_status *read_status)
{
    zds_status status = ZDS_OK;
    zds_event *event = NULL;
    for (uint32_t p = 0; !status && p < e->model->param_count; p++) {
        uint64_t numel = e->model->params[p].numel;
        for (uint64_t i = 0; !status && i < numel; i += STAGING_ELEMENTS) {
            uint64_t n = numel - i < STAGING_ELEMENTS ? numel - i : STAGING_ELEMENTS;
            if (e->place.rank == 0 && !*read_status)
                *read_status = read_piece(e, p, i, n, read, user);
            if (e->place.world_size == 1)
                continue;
            status = engine_wait(e, &event, "distributing initial values");
            if (status)
                break;
            char *piece = param_at(e, e->lay->places[p].first + i);
            zds_coll coll = {.struct_size = sizeof coll,
                             .tag = 5,
                             .src = piece,
                             .dst = piece,
                             .count = n,
                             .src_dtype = e->set.param_dtype,
                             .dst_dtype = e->set.param_dtype};
            services_clear(&e->comm_services);
            status = e->comm.broadcast(e->comm_self, &coll, &event);
            if (status)
                return engine_comm_failed(e, status, "distributing initial values");
        }
    }
    return status ? status : engine_wait(e, &event, "distributing initial values");
}

/* Rank 0's status, so that all ranks fail alike. */
static zds_status agree(zds_engine *e, zds_status mine)
{
    int64_t row = mine;
    const void *all;
    zds_status status = engine_gather_small(e, &row, sizeof row, &all);
    if (status)
        return status;
    memcpy(&row, all, sizeof row);
    return (zds_status)row;
}

static void fill_state(void *state, const zds_state_spec *spec, uint64_t count)
{
    float value = (float)spec->initial;
    for (uint64_t k = 0; k < count; k++)
        kernel_convert((char *)state + k * zds_dtype_size(spec->dtype), spec->dtype, &value,
                       ZDS_F32, 1);
}

/* States that are this rank's own reach beyond its slices. */
static void start_own_states(zds_engine *e)
{
    for (uint32_t i = 0; i < e->model->param_count; i++) {
        const param_run *run = &e->param_runs[i];
        for (uint32_t s = 0; s < run->needs.state_count; s++) {
            const zds_state_spec *spec = &run->needs.states[s];
            if (spec->kind == ZDS_STATE_ELEMENT && spec->initial != 0 && run->whole_states[s])
                fill_state(run->whole_states[s], spec, e->model->params[i].numel);
        }
    }
}

static void start_piece(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    zds_engine *e = arg;
    const zds_tile *t = &e->tiles[i];
    const zds_param_needs *needs = &e->param_runs[t->param->index].needs;
    if (t->output)
        kernel_convert(t->master, t->master_dtype, t->output, e->set.param_dtype, t->count);
    for (uint32_t s = 0; s < needs->state_count; s++) {
        const zds_state_spec *spec = &needs->states[s];
        if (spec->kind == ZDS_STATE_ELEMENT && spec->initial != 0)
            fill_state(t->states[s], spec, t->count);
    }
}

zds_status zds_set_values(zds_engine *e, zds_read_fn read, void *user)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (!read)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_set_values needs a function to read from");
    if (e->in_micro || e->micro)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_set_values in the middle of an optimizer step");
    if (e->steps)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_set_values after %lld steps: optimizer states belong to the values "
                           "that they come from; create a new engine",
                           (long long)e->steps);
    status = engine_published(e);
    if (!status) /* nobody reads shared pages any more */
        status = agree(e, ZDS_OK);
    if (status)
        return status;
    zds_status read_status = ZDS_OK;
    status = storage_seal(e, false);
    if (!status)
        status = distribute(e, read, user, &read_status);
    if (!status)
        status = storage_seal(e, true);
    if (status)
        return status;
    zds_status common = agree(e, read_status);
    if (common)
        return e->broken ? common
                         : engine_fail(e, common, "initial values could not be read on rank 0 (%s)",
                                       zds_status_name(common));
    pool_run(e->threads, e->tile_count, start_piece, e);
    start_own_states(e);
    e->values_set = true;
    return ZDS_OK;
}

/* What readers of states see: one value an element. */
static bool is_readable(const zds_state_spec *spec)
{
    return spec->kind == ZDS_STATE_ELEMENT || spec->kind == ZDS_STATE_CONSTANT;
}

const char *zds_state_name(const zds_engine *e, uint32_t param, uint32_t i)
{
    if (!e || param >= e->model->param_count)
        return NULL;
    const param_run *run = &e->param_runs[param];
    for (uint32_t s = 0; s < run->needs.state_count; s++)
        if (is_readable(&run->needs.states[s]) && i-- == 0)
            return run->state_names[s];
    return NULL;
}

/* Where elements of a parameter's master weight or state lie on this rank, from `first` of what it
 * owns. */
static const void *source(const zds_engine *e, uint32_t param, int32_t state, uint64_t first,
                          zds_dtype *dtype)
{
    const param_run *run = &e->param_runs[param];
    if (state >= 0 && run->whole_states[state]) {
        *dtype = run->needs.states[state].dtype;
        return (const char *)run->whole_states[state] + first * zds_dtype_size(*dtype);
    }
    const owned_piece *piece = run->piece;
    const char *base = state >= 0 ? piece->states[state] : piece->master;
    *dtype = state >= 0 ? run->needs.states[state].dtype : e->set.master_dtype;
    return base + (first - piece->param_first) * zds_dtype_size(*dtype);
}

/* One owner's elements [first, first + count) travel to rank 0 and are written there. */
static zds_status move_piece(zds_engine *e, uint32_t param, int32_t state, int32_t owner,
                             uint64_t first, uint64_t count, zds_write_fn write, void *user,
                             zds_status *written)
{
    for (uint64_t i = 0; i < count; i += STAGING_ELEMENTS) {
        uint64_t n = count - i < STAGING_ELEMENTS ? count - i : STAGING_ELEMENTS;
        if (e->place.rank == owner) {
            zds_dtype dtype = ZDS_F32;
            const void *from = source(e, param, state, first + i, &dtype);
            kernel_convert(e->staging, ZDS_F32, from, dtype, n);
        }
        if (owner != 0) {
            zds_coll coll = {.struct_size = sizeof coll,
                             .tag = 6,
                             .src = e->staging,
                             .dst = e->staging,
                             .count = n,
                             .peer = owner};
            zds_event *event = NULL;
            services_clear(&e->comm_services);
            zds_status status = e->comm.broadcast(e->comm_self, &coll, &event);
            if (status)
                return engine_comm_failed(e, status, "collecting values");
            status = engine_wait(e, &event, "collecting values");
            if (status)
                return status;
        }
        if (e->place.rank == 0 && !*written)
            *written = write(user, param, first + i, n, e->staging);
    }
    return ZDS_OK;
}

/* Parameters as the callers see them are the same everywhere: rank 0 has them already. */
static zds_status write_own(zds_engine *e, uint32_t param, zds_write_fn write, void *user)
{
    uint64_t numel = e->model->params[param].numel, first = e->lay->places[param].first;
    for (uint64_t i = 0; i < numel; i += STAGING_ELEMENTS) {
        uint64_t n = numel - i < STAGING_ELEMENTS ? numel - i : STAGING_ELEMENTS;
        kernel_convert(e->staging, ZDS_F32, param_at(e, first + i), e->set.param_dtype, n);
        zds_status status = write(user, param, i, n, e->staging);
        if (status)
            return status;
    }
    return ZDS_OK;
}

/* A CONSTANT state rests nowhere. */
static zds_status write_constant(zds_engine *e, uint32_t param, double value, zds_write_fn write,
                                 void *user)
{
    uint64_t numel = e->model->params[param].numel;
    for (uint64_t i = 0; i < STAGING_ELEMENTS && i < numel; i++)
        e->staging[i] = (float)value;
    for (uint64_t i = 0; i < numel; i += STAGING_ELEMENTS) {
        uint64_t n = numel - i < STAGING_ELEMENTS ? numel - i : STAGING_ELEMENTS;
        zds_status status = write(user, param, i, n, e->staging);
        if (status)
            return status;
    }
    return ZDS_OK;
}

static int32_t state_index(const zds_engine *e, uint32_t param, const char *name)
{
    const param_run *run = &e->param_runs[param];
    for (uint32_t s = 0; s < run->needs.state_count; s++)
        if (is_readable(&run->needs.states[s]) && strcmp(run->state_names[s], name) == 0)
            return (int32_t)s;
    return -1;
}

zds_status zds_get_values(zds_engine *e, uint32_t param, const char *state, zds_write_fn write,
                          void *user)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (!e->values_set || (!write && e->place.rank == 0))
        return engine_fail(
            e, ZDS_ERR_INVALID,
            "zds_get_values before zds_set_values, or without a function to write to");
    if (param >= e->model->param_count)
        return engine_fail(e, ZDS_ERR_NOT_FOUND, "parameter %u: the model has %u", param,
                           e->model->param_count);
    int32_t index = state ? state_index(e, param, state) : -1;
    if (state && index < 0)
        return engine_fail(e, ZDS_ERR_NOT_FOUND, "parameter %s has no state %s",
                           e->model->params[param].name, state);
    status = engine_published(e);
    if (status)
        return status;
    zds_status written = ZDS_OK;
    const zds_state_spec *spec = state ? &e->param_runs[param].needs.states[index] : NULL;
    bool everywhere = !state && (!e->master || !e->param_runs[param].trainable);
    bool own = state && e->param_runs[param].whole_states[index] && !e->own_states_cut;
    if (spec && spec->kind == ZDS_STATE_CONSTANT) {
        if (e->place.rank == 0)
            written = write_constant(e, param, spec->initial, write, user);
    } else if (everywhere || own || e->set.stage == 0) {
        if (e->place.rank == 0 && everywhere)
            written = write_own(e, param, write, user);
        else if (e->place.rank == 0)
            status = move_piece(e, param, index, 0, 0, e->model->params[param].numel, write, user,
                                &written);
    } else {
        for (int32_t r = 0; !status && r < e->place.world_size; r++) {
            layout_piece piece = layout_piece_of(e->lay, e->model, param, (uint32_t)r);
            if (piece.count)
                status = move_piece(e, param, index, r, piece.param_first, piece.count, write, user,
                                    &written);
        }
    }
    if (status)
        return status;
    zds_status common = agree(e, written);
    if (common && !e->broken)
        return engine_fail(e, common, "values of %s could not be written on rank 0 (%s)",
                           e->model->params[param].name, zds_status_name(common));
    return common;
}
