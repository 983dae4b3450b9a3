/* Values in and out of an engine. */
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"

/* Every rank has read its own: all of them did, and what they can compare is the same. */
static zds_status agree_on_values(zds_engine *e, zds_status mine, const uint64_t *hashes)
{
    static const char call[] = "zds_set_values";
    zds_error error = ZDS_ERROR_INIT;
    const void *all;
    zds_status status = peers_gather(e->control, &mine, sizeof mine, &all, call);
    for (int32_t r = 0; !status && r < e->launch.world_size; r++) {
        zds_status theirs = ((const zds_status *)all)[r];
        if (theirs)
            return engine_fail(e, theirs, "initial values could not be read on rank %d (%s)", r,
                               zds_status_name(theirs));
    }
    if (!status && (status = agree_on_hashes(e, hashes, &error)) != ZDS_OK) {
        if (!e->failure.broken)
            engine_fail(e, status, "%s", error.text);
        if (status == ZDS_ERR_DIVERGED)
            e->failure.broken = true; /* as on all ranks */
        else
            engine_give_up(e, status);
    }
    zds_error_clear(&error);
    return status;
}

static zds_status read_everywhere(zds_engine *e, zds_read_fn read, void *user)
{
    zds_status read_status = ZDS_OK;
    uint64_t *hashes = calloc(e->model->param_count + (size_t)1, sizeof *hashes);
    if (!hashes)
        return engine_give_up(e, engine_fail(e, ZDS_ERR_MEMORY, "no memory to compare values"));
    zds_status status = zero_read_everywhere(e->zero, read, user, hashes, &read_status);
    if (!status)
        status = agree_on_values(e, read_status, hashes);
    free(hashes);
    return status;
}

static zds_status read_from_first(zds_engine *e, zds_read_fn read, void *user)
{
    zds_status read_status = ZDS_OK, status = zero_read_values(e->zero, read, user, &read_status);
    if (status)
        return status;
    zds_status common = peers_agree(e->control, read_status, "zds_set_values");
    return !common || e->failure.broken
               ? common
               : engine_fail(e, common, "initial values could not be read on rank 0 (%s)",
                             zds_status_name(common));
}

zds_status zds_set_values(zds_engine *e, zds_read_fn read, void *user)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (!read)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_set_values needs a function to read from");
    if (engine_in_step(e))
        return engine_fail(e, ZDS_ERR_INVALID, "zds_set_values in the middle of an optimizer step");
    if (e->steps)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_set_values after %lld steps: optimizer states belong to the values "
                           "that they come from; create a new engine",
                           (long long)e->steps);
    e->values_set = false; /* till all of them are there */
    /* Nobody reads shared pages any more. */
    status = peers_agree(e->control, ZDS_OK, "zds_set_values");
    if (!status)
        status =
            e->values_everywhere ? read_everywhere(e, read, user) : read_from_first(e, read, user);
    if (status)
        return status;
    status = zero_start(e->zero);
    e->values_set = !status;
    return status;
}

/* What readers of states see: one value an element. */
static bool is_readable(const zds_state_spec *spec)
{
    return spec->kind == ZDS_STATE_ELEMENT || spec->kind == ZDS_STATE_CONSTANT;
}

/* Which of a parameter's states the i-th is that can be read; -1 past the last. */
static int32_t readable_state(const zds_engine *e, uint32_t param, uint32_t i)
{
    if (!e || param >= e->model->param_count)
        return -1;
    const zds_param_needs *needs = &e->params[param].needs;
    for (uint32_t s = 0; s < needs->state_count; s++)
        if (is_readable(&needs->states[s]) && i-- == 0)
            return (int32_t)s;
    return -1;
}

const char *zds_state_name(const zds_engine *e, uint32_t param, uint32_t i)
{
    int32_t s = readable_state(e, param, i);
    return s < 0 ? NULL : e->params[param].state_names[s];
}

uint32_t zds_state_version(const zds_engine *e, uint32_t param, uint32_t i)
{
    int32_t s = readable_state(e, param, i);
    return s < 0 ? 0 : e->params[param].needs.states[s].version;
}

const char *zds_eval_state(const zds_engine *e, uint32_t param)
{
    uint32_t state = e && param < e->model->param_count ? e->params[param].needs.eval_state : 0;
    return state ? e->params[param].state_names[state - 1] : NULL;
}

static int32_t state_index(const zds_engine *e, uint32_t param, const char *name)
{
    const zero_param *known = &e->params[param];
    for (uint32_t s = 0; s < known->needs.state_count; s++)
        if (is_readable(&known->needs.states[s]) && strcmp(known->state_names[s], name) == 0)
            return (int32_t)s;
    return -1;
}

zds_status zds_get_values(zds_engine *e, uint32_t param, const char *state, zds_write_fn write,
                          void *user)
{
    zds_status status = engine_usable(e), written = ZDS_OK;
    if (status)
        return status;
    if (!e->values_set || (!write && e->launch.rank == 0))
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
    status = zero_write_values(e->zero, param, index, write, user, &written);
    if (status)
        return status;
    zds_status common = peers_agree(e->control, written, "zds_get_values");
    if (common && !e->failure.broken)
        return engine_fail(e, common, "values of %s could not be written on rank 0 (%s)",
                           e->model->params[param].name, zds_status_name(common));
    return common;
}

/* Nothing else may be in a CONSTANT state. */
static zds_status read_constant(uint64_t numel, double value, uint32_t param, zds_read_fn read,
                                void *user)
{
    enum { SOME = 1024 };
    float some[SOME];
    zds_status status = ZDS_OK;
    for (uint64_t first = 0; !status && first < numel; first += SOME) {
        uint64_t n = numel - first < SOME ? numel - first : SOME;
        status = read(user, param, first, n, some);
        for (uint64_t i = 0; !status && i < n; i++)
            status = some[i] == (float)value ? ZDS_OK : ZDS_ERR_INVALID;
    }
    return status;
}

zds_status zds_set_state(zds_engine *e, uint32_t param, const char *state, zds_read_fn read,
                         void *user)
{
    zds_status status = engine_usable(e), read_status = ZDS_OK;
    if (status)
        return status;
    if (!e->values_set || engine_in_step(e) || !read)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_set_state %s",
                           !read           ? "needs a function to read from"
                           : e->values_set ? "in the middle of an optimizer step"
                                           : "before zds_set_values");
    if (param >= e->model->param_count)
        return engine_fail(e, ZDS_ERR_NOT_FOUND, "parameter %u: the model has %u", param,
                           e->model->param_count);
    int32_t index = state ? state_index(e, param, state) : -1;
    const zero_param *known = &e->params[param];
    const char *name = e->model->params[param].name;
    if (!known->trainable || (state && index < 0))
        return engine_fail(e, ZDS_ERR_NOT_FOUND, "parameter %s %s%s", name,
                           known->trainable ? "has no state " : "is frozen",
                           known->trainable ? state : "");
    const zds_state_spec *spec = index < 0 ? NULL : &known->needs.states[index];
    if (spec && spec->scope == ZDS_SCOPE_RANK_LOCAL)
        return engine_fail(e, ZDS_ERR_UNSUPPORTED,
                           "state %s of parameter %s is another one on each rank", state, name);
    status = peers_agree(e->control, ZDS_OK, "zds_set_state"); /* nobody reads shared pages */
    bool constant = spec && spec->kind == ZDS_STATE_CONSTANT;
    if (!status && constant && e->launch.rank == 0)
        read_status =
            read_constant(e->model->params[param].numel, spec->initial, param, read, user);
    else if (!status && !constant)
        status = zero_read_state(e->zero, param, index, read, user, &read_status);
    if (status)
        return status;
    zds_status common = peers_agree(e->control, read_status, "zds_set_state");
    if (!common || e->failure.broken)
        return common;
    if (constant)
        return engine_fail(e, common, "state %s of parameter %s is %g everywhere, and stays so",
                           state, name, spec->initial);
    engine_fail(
        e, common,
        "values of %s could not be read on rank 0 (%s), and half of them are replaced: create "
        "a new engine",
        name, zds_status_name(common));
    e->failure.broken = true;
    return common;
}

static zds_status check_copy(zds_engine *e, const char *call, const void *to, const void *from,
                             uint64_t bytes)
{
    zds_status status = engine_usable(e);
    if (!status && bytes && (!to || !from))
        status = engine_fail(e, ZDS_ERR_INVALID, "%s: %s is NULL", call, to ? "from" : "to");
    return status;
}

zds_status zds_copy_in(zds_engine *e, void *to, const void *from, uint64_t bytes)
{
    zds_status status = check_copy(e, "zds_copy_in", to, from, bytes);
    return status || !bytes ? status : zero_copy_in(e->zero, to, from, bytes);
}

zds_status zds_copy_out(zds_engine *e, void *to, const void *from, uint64_t bytes)
{
    zds_status status = check_copy(e, "zds_copy_out", to, from, bytes);
    return status || !bytes ? status : zero_copy_out(e->zero, to, from, bytes);
}
