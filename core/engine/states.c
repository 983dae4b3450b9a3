/* Trained values and optimizer states, out of an engine and into another. */
#include <string.h>

#include "engine/internal.h"
#include "host/sized.h"

/* === which there are === */

/* What readers of values see: one an element. */
static bool has_values(const zds_engine *e, uint32_t param, uint32_t s)
{
    int32_t kind = e->params[param].needs.states[s].kind;
    return kind == ZDS_STATE_ELEMENT || kind == ZDS_STATE_CONSTANT;
}

/* What readers of bytes see: a GLOBAL state once. */
static bool has_bytes(const zds_engine *e, uint32_t param, uint32_t s)
{
    const zero_param *known = &e->params[param];
    bool here = known->needs.states[s].kind != ZDS_STATE_GLOBAL;
    for (uint32_t g = 0; !here && g < e->global_count; g++)
        here =
            e->globals[g].param == param && strcmp(e->globals[g].name, known->state_names[s]) == 0;
    return here;
}

typedef bool (*filter)(const zds_engine *e, uint32_t param, uint32_t s);

/* Which of a parameter's states the i-th is that passes; -1 past the last. */
static int32_t nth_state(const zds_engine *e, uint32_t param, uint32_t i, filter passes)
{
    if (!e || param >= e->model->param_count)
        return -1;
    for (uint32_t s = 0; s < e->params[param].needs.state_count; s++)
        if (passes(e, param, s) && i-- == 0)
            return (int32_t)s;
    return -1;
}

static int32_t state_index(const zds_engine *e, uint32_t param, const char *name, filter passes)
{
    const zero_param *known = &e->params[param];
    for (uint32_t s = 0; s < known->needs.state_count; s++)
        if (passes(e, param, s) && strcmp(known->state_names[s], name) == 0)
            return (int32_t)s;
    return -1;
}

const char *zds_state_name(const zds_engine *e, uint32_t param, uint32_t i)
{
    int32_t s = nth_state(e, param, i, has_values);
    return s < 0 ? NULL : e->params[param].state_names[s];
}

uint32_t zds_state_version(const zds_engine *e, uint32_t param, uint32_t i)
{
    int32_t s = nth_state(e, param, i, has_values);
    return s < 0 ? 0 : e->params[param].needs.states[s].version;
}

const char *zds_eval_state(const zds_engine *e, uint32_t param)
{
    uint32_t state = e && param < e->model->param_count ? e->params[param].needs.eval_state : 0;
    return state ? e->params[param].state_names[state - 1] : NULL;
}

static zds_state_info info_of(const zds_engine *e, uint32_t param, int32_t s)
{
    const zds_state_spec *spec = &e->params[param].needs.states[s];
    int32_t ranks = spec->scope == ZDS_SCOPE_RANK_LOCAL ? e->launch.world_size : 1;
    return (zds_state_info){.struct_size = sizeof(zds_state_info),
                            .name = e->params[param].state_names[s],
                            .kind = spec->kind,
                            .scope = spec->scope,
                            .dtype = spec->dtype,
                            .version = spec->version,
                            .block = spec->kind == ZDS_STATE_BLOCK ? spec->block : 0,
                            .ranks = ranks,
                            .bytes = zero_state_bytes(e->zero, param, s) * (uint64_t)ranks};
}

bool zds_state(const zds_engine *e, uint32_t param, uint32_t i, zds_state_info *info)
{
    int32_t s = nth_state(e, param, i, has_bytes);
    if (s < 0 || !sized_is_set(info))
        return false;
    zds_state_info own = info_of(e, param, s);
    sized_fill(info, info->struct_size, &own, sizeof own);
    return true;
}

/* === out === */

static zds_status no_such_param(zds_engine *e, uint32_t param)
{
    return engine_fail(e, ZDS_ERR_NOT_FOUND, "parameter %u: the model has %u", param,
                       e->model->param_count);
}

/* All ranks want the same. Nothing has been done yet where they do not. */
static zds_status agree_on_what(zds_engine *e, const char *call, uint32_t param, int32_t index)
{
    const int64_t mine[2] = {param, index};
    const void *all;
    zds_status status = peers_gather(e->control, mine, sizeof mine, &all, call);
    for (int32_t r = 0; !status && r < e->launch.world_size; r++) {
        const int64_t *theirs = (const int64_t *)all + (size_t)2 * (size_t)r;
        const char *what = theirs[1] < 0 ? "" : e->params[theirs[0]].state_names[theirs[1]];
        if (memcmp(theirs, mine, sizeof mine) != 0)
            status = engine_fail(e, ZDS_ERR_DIVERGED,
                                 "%s: rank %d asks for %s%sparameter %s, rank %d for another: all "
                                 "ranks must ask for the same",
                                 call, r, what, *what ? " of " : "",
                                 e->model->params[theirs[0]].name, e->launch.rank);
    }
    return status;
}

/* *index: the state to get, -1 for none. */
static zds_status check_get(zds_engine *e, const char *call, uint32_t param, const char *state,
                            filter passes, bool can_write, int32_t *index)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (engine_updates(e))
        return engine_fail(e, ZDS_ERR_INVALID,
                           "%s in a boundary micro step with zds.overlap_step: parameters and "
                           "states are being updated; call it after zds_step",
                           call);
    if (!e->values_set || (!can_write && e->launch.rank == 0))
        return engine_fail(e, ZDS_ERR_INVALID,
                           "%s before zds_set_values, or without a function to write to", call);
    if (param >= e->model->param_count)
        return no_such_param(e, param);
    *index = state ? state_index(e, param, state, passes) : -1;
    if (state && *index < 0)
        return engine_fail(e, ZDS_ERR_NOT_FOUND, "parameter %s has no state %s",
                           e->model->params[param].name, state);
    return agree_on_what(e, call, param, *index);
}

/* `written`: what rank 0's function said. */
static zds_status end_get(zds_engine *e, const char *call, uint32_t param, zds_status written)
{
    zds_status common = peers_agree(e->control, written, call);
    if (common && !e->failure.broken)
        return engine_fail(e, common, "values of %s could not be written on rank 0 (%s)",
                           e->model->params[param].name, zds_status_name(common));
    return common;
}

zds_status zds_get_values(zds_engine *e, uint32_t param, const char *state, zds_write_fn write,
                          void *user)
{
    static const char call[] = "zds_get_values";
    int32_t index = -1;
    zds_status written = ZDS_OK;
    zds_status status = check_get(e, call, param, state, has_values, write != NULL, &index);
    if (!status)
        status = zero_write_values(e->zero, param, index, write, user, &written);
    return engine_why(e, status ? status : end_get(e, call, param, written));
}

zds_status zds_get_state_bytes(zds_engine *e, uint32_t param, const char *state,
                               zds_write_bytes_fn write, void *user)
{
    static const char call[] = "zds_get_state_bytes";
    int32_t index = -1;
    zds_status written = ZDS_OK;
    zds_status status =
        check_get(e, call, param, state ? state : "", has_bytes, write != NULL, &index);
    if (!status)
        status = zero_write_bytes(e->zero, param, index, write, user, &written);
    return engine_why(e, status ? status : end_get(e, call, param, written));
}

/* === in === */

static zds_status check_set(zds_engine *e, const char *call, uint32_t param, const char *state,
                            filter passes, bool can_read, int32_t *index)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    can_read |= e->launch.rank != 0;
    if (!e->values_set || engine_in_step(e) || !can_read)
        return engine_fail(e, ZDS_ERR_INVALID, "%s %s", call,
                           !can_read       ? "needs a function to read from"
                           : e->values_set ? "in the middle of an optimizer step"
                                           : "before zds_set_values");
    if (param >= e->model->param_count)
        return no_such_param(e, param);
    bool trainable = e->params[param].trainable;
    *index = state ? state_index(e, param, state, passes) : -1;
    if (!trainable || (state && *index < 0))
        return engine_fail(e, ZDS_ERR_NOT_FOUND, "parameter %s %s%s", e->model->params[param].name,
                           trainable ? "has no state " : "is frozen", trainable ? state : "");
    return agree_on_what(e, call, param, *index); /* and nobody reads shared pages */
}

/* `read_status`: what rank 0's function said. */
static zds_status end_set(zds_engine *e, const char *call, uint32_t param, zds_status read_status)
{
    zds_status common = peers_agree(e->control, read_status, call);
    if (!common || e->failure.broken)
        return common;
    engine_fail(
        e, common,
        "values of %s could not be read on rank 0 (%s), and half of them are replaced: create "
        "a new engine",
        e->model->params[param].name, zds_status_name(common));
    e->failure.broken = true;
    return common;
}

/* Nothing else may be in a CONSTANT state. *other: something else is. */
static zds_status read_constant(uint64_t numel, double value, uint32_t param, zds_read_fn read,
                                void *user, bool *other)
{
    enum { SOME = 1024 };
    float some[SOME];
    zds_status status = ZDS_OK;
    for (uint64_t first = 0; !status && first < numel; first += SOME) {
        uint64_t n = numel - first < SOME ? numel - first : SOME;
        status = read(user, param, first, n, some);
        for (uint64_t i = 0; !status && i < n; i++)
            *other |= some[i] != (float)value;
        if (*other)
            return ZDS_ERR_INVALID;
    }
    return status;
}

static zds_status set_constant(zds_engine *e, const char *call, uint32_t param, int32_t index,
                               zds_read_fn read, void *user)
{
    const model_param *p = &e->model->params[param];
    double value = e->params[param].needs.states[index].initial;
    const char *state = e->params[param].state_names[index];
    struct {
        zds_status status;
        int32_t other;
    } first = {0};
    bool other = false;
    const void *all;
    if (e->launch.rank == 0)
        first.status = read_constant(p->numel, value, param, read, user, &other);
    first.other = other;
    zds_status status = peers_gather(e->control, &first, sizeof first, &all, call);
    if (status || e->failure.broken)
        return status;
    memcpy(&first, all, sizeof first);
    if (!first.status)
        return ZDS_OK;
    return first.other
               ? engine_fail(e, first.status,
                             "state %s of parameter %s is %g everywhere, and "
                             "stays so",
                             state, p->name, value)
               : engine_fail(e, first.status,
                             "values of state %s of parameter %s could not be read on rank 0 (%s); "
                             "nothing has changed",
                             state, p->name, zds_status_name(first.status));
}

zds_status zds_set_state(zds_engine *e, uint32_t param, const char *state, zds_read_fn read,
                         void *user)
{
    static const char call[] = "zds_set_state";
    int32_t index = -1;
    zds_status read_status = ZDS_OK;
    zds_status status = check_set(e, call, param, state, has_values, read != NULL, &index);
    if (status)
        return status;
    if (index >= 0 && e->params[param].needs.states[index].kind == ZDS_STATE_CONSTANT)
        return engine_why(e, set_constant(e, call, param, index, read, user));
    status = zero_read_state(e->zero, param, index, read, user, &read_status);
    return engine_why(e, status ? status : end_set(e, call, param, read_status));
}

/* Bytes that were got where the state was `saved` mean the same here. */
static zds_status check_saved(zds_engine *e, uint32_t param, int32_t index,
                              const zds_state_info *saved)
{
    zds_state_info was = {0}, is = info_of(e, param, index);
    const char *name = e->model->params[param].name;
    sized_read(&was, sizeof was, saved);
    if (was.scope == ZDS_SCOPE_RANK_LOCAL && was.scope == is.scope && was.ranks != is.ranks)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "state %s of parameter %s is another one on each rank, and was got of %d"
                           " ranks, not of %d; leave it out, and it starts anew%s",
                           is.name, name, was.ranks, is.ranks,
                           is.kind == ZDS_STATE_ELEMENT
                               ? ", or give all ranks the same values by zds_set_state"
                               : "");
    const struct {
        const char *what;
        uint64_t was, is;
    } facts[] = {{"kind", (uint64_t)was.kind, (uint64_t)is.kind},
                 {"scope", (uint64_t)was.scope, (uint64_t)is.scope},
                 {"dtype", (uint64_t)was.dtype, (uint64_t)is.dtype},
                 {"version", was.version, is.version},
                 {"block", was.block, is.block},
                 {"bytes", was.bytes, is.bytes}};
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (facts[i].was != facts[i].is)
            return engine_fail(
                e, ZDS_ERR_INVALID,
                "state %s of parameter %s: %s was %llu where its bytes were got, and "
                "is %llu here, so they mean something else; use the optimizer and "
                "the options they are from, or leave the state out, and it starts "
                "anew",
                is.name, name, facts[i].what, (unsigned long long)facts[i].was,
                (unsigned long long)facts[i].is);
    return ZDS_OK;
}

zds_status zds_set_state_bytes(zds_engine *e, uint32_t param, const zds_state_info *saved,
                               zds_read_bytes_fn read, void *user)
{
    static const char call[] = "zds_set_state_bytes";
    int32_t index = -1;
    zds_status read_status = ZDS_OK, status = engine_usable(e);
    if (status)
        return status;
    const size_t least = ZDS_SIZE_THROUGH(zds_state_info, bytes);
    if (saved && !sized_reaches(saved, least))
        return engine_fail(e, ZDS_ERR_INVALID, "%s: " SIZED_TOO_SHORT, call, "zds_state_info",
                           saved->struct_size, least);
    if (!saved || !saved->name)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "%s needs what zds_state told of the state, with its name", call);
    status = check_set(e, call, param, saved->name, has_bytes, read != NULL, &index);
    if (!status)
        status = check_saved(e, param, index, saved);
    if (!status)
        status = zero_read_bytes(e->zero, param, index, read, user, &read_status);
    return engine_why(e, status ? status : end_set(e, call, param, read_status));
}
