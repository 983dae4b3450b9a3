/* An engine's beginning and end. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/plugins.h"
#include "engine/internal.h"
#include "host/error.h"

zds_engine_options engine_options(const zds_engine_options *given)
{
    zds_engine_options o = {.total_steps = -1, .warmup_steps = -1};
    if (given) {
        size_t size = given->struct_size < sizeof o ? given->struct_size : sizeof o;
        memcpy(&o, given, size);
    }
    return o;
}

static zds_status find_place(launch *place, const zds_engine_options *o, zds_error *error)
{
    zds_status status = launch_read(place, error);
    if (status || o->world_size == 0)
        return status;
    place->world_size = o->world_size;
    place->rank = o->rank;
    place->local_world_size = o->local_world_size ? o->local_world_size : o->world_size;
    place->local_rank = o->local_world_size ? o->local_rank : o->rank;
    if (o->master_addr)
        place->master_addr = o->master_addr;
    if (o->master_port)
        place->master_port = o->master_port;
    else if (!place->master_port && o->world_size > 1)
        place->master_port = LAUNCH_PORT;
    if (place->world_size < 1 || place->rank < 0 || place->rank >= place->world_size ||
        place->local_rank < 0 || place->local_rank >= place->local_world_size)
        return error_set(error, ZDS_ERR_INVALID, "rank %d of %d (local %d of %d) is not possible",
                         place->rank, place->world_size, place->local_rank,
                         place->local_world_size);
    return ZDS_OK;
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Parameters start at 64 bytes of the narrowest type, and no slice cuts a block. */
static uint64_t alignment(const zds_engine *e)
{
    uint64_t align = 64 / zds_dtype_size(e->set.param_dtype);
    if (zds_dtype_size(e->set.accum_dtype) < zds_dtype_size(e->set.param_dtype))
        align = 64 / zds_dtype_size(e->set.accum_dtype);
    for (uint32_t i = 0; i < e->model->param_count; i++) {
        uint64_t block = e->param_runs[i].needs.granularity;
        if (block > 1)
            align = align / gcd(align, block) * block;
    }
    return align;
}

/* What parameters that the optimizer needs whole cost it. At stage 0 every rank has all of them
 * whole anyway, however their gradients are reduced. */
static double *whole_costs(const zds_engine *e)
{
    double *costs = calloc(e->model->param_count + (size_t)1, sizeof *costs);
    for (uint32_t i = 0; costs && i < e->model->param_count; i++) {
        const zds_param_needs *needs = &e->param_runs[i].needs;
        if (needs->whole_tensor)
            costs[i] = needs->cost > 0 ? needs->cost : (double)e->model->params[i].numel;
    }
    return costs;
}

static zds_status lay_out(zds_engine *e, zds_error *error)
{
    uint64_t align = alignment(e);
    if (align > 1 << 24)
        return error_set(
            error, ZDS_ERR_UNSUPPORTED,
            "optimizer %s: its granularities have no common multiple below 16 Mi elements",
            e->optim_plugin->name);
    double *whole = whole_costs(e);
    layout_wish wish = {.world_size = (uint32_t)e->place.world_size,
                        .rank = (uint32_t)e->place.rank,
                        .align = align,
                        .bucket = e->set.bucket,
                        .whole = e->set.stage ? whole : NULL};
    e->lay = whole ? layout_create(e->model, &wish) : NULL;
    free(whole);
    if (!e->lay)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the layout of %u parameters",
                         e->model->param_count);
    layout_plan_pool(e->lay, e->set.overlap && e->set.stage >= 2);
    return ZDS_OK;
}

static zds_status build(zds_engine *e, const zds_model *model, const zds_engine_options *o,
                        zds_error *error)
{
    zds_status status = find_place(&e->place, o, error);
    if (!status)
        status = settings_read(&e->set, e->config, e->place.world_size, error);
    if (!status)
        status = pool_create(o->threads, e->place.local_world_size, &e->threads, error);
    if (status)
        return status;
    char *path = config_plugin_path(e->config);
    status = registry_create(path, o->plugins, &e->plugins, error);
    free(path);
    e->model = status ? NULL : model_copy(model);
    if (!status && !e->model)
        status = error_set(error, ZDS_ERR_MEMORY, "no memory for the model's description");
    if (!status)
        status = e->planned ? plugins_plan_comm(e, o, error) : plugins_open_comm(e, o, error);
    if (!status && !e->planned)
        status = agree_on_start(e, o, error);
    if (!status)
        status = plugins_open_optim(e, o, error);
    if (!status)
        status = groups_create(e, o, error);
    if (!status)
        status = plugins_open_sched(e, o, error);
    if (!status)
        status = check_rates(e, error);
    if (!status)
        status = lay_out(e, error);
    if (!status)
        status = storage_create(e, error);
    if (!status && (status = update_hypers(e, 0)) != ZDS_OK)
        error_set(error, status, "%s", zds_engine_error(e));
    return status ? status : params_prepare(e, error);
}

zds_engine *engine_empty(const zds_config *config, const zds_engine_options *o)
{
    zds_engine *e = calloc(1, sizeof *e);
    ledger *memory = ledger_create();
    if (!e || !memory) {
        free(e);
        ledger_destroy(memory);
        return NULL;
    }
    e->process = getpid();
    e->config = config;
    e->ledger = memory;
    e->seed = o->seed;
    e->acquired = e->travelling = -1;
    return e;
}

zds_status zds_engine_create(const zds_config *config, const zds_model *model,
                             const zds_engine_options *options, zds_engine **engine,
                             zds_error *error)
{
    if (!config || !model || !engine)
        return error_set(error, ZDS_ERR_INVALID,
                         "zds_engine_create: config, model and engine must be given");
    zds_engine_options o = engine_options(options);
    zds_engine *e = engine_empty(config, &o);
    if (!e)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for an engine");
    zds_status status = build(e, model, &o, error);
    if (status) {
        if (e->comm_self && e->place.world_size > 1)
            e->comm.abort(e->comm_self,
                          error && error->text ? error->text : "the engine could not be created");
        zds_engine_destroy(e);
        return status;
    }
    *engine = e;
    return ZDS_OK;
}

zds_status zds_engine_plan(const zds_config *config, const zds_model *model,
                           const zds_engine_options *options,
                           void (*visit)(void *user, const zds_memory_row *row), void *user,
                           zds_error *error)
{
    if (!config || !model || !visit)
        return error_set(error, ZDS_ERR_INVALID,
                         "zds_engine_plan: config, model and visit must be given");
    zds_engine_options o = engine_options(options);
    zds_engine *e = engine_empty(config, &o);
    if (!e)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for a plan");
    zds_memory_row row;
    e->planned = true;
    zds_status status = build(e, model, &o, error);
    for (size_t i = 0; !status && zds_memory_report(e, i, &row); i++)
        visit(user, &row);
    zds_engine_destroy(e);
    return status;
}

void zds_engine_destroy(zds_engine *e)
{
    if (!e || getpid() != e->process)
        return;
    for (uint32_t k = 0; e->span_runs && k < e->lay->span_count; k++)
        for (size_t i = 0; i < e->span_runs[k].event_count; i++)
            if (e->span_runs[k].events[i])
                e->span_runs[k].events[i]->ops->release(e->span_runs[k].events[i]);
    if (e->publish)
        e->publish->ops->release(e->publish);
    if (e->sched_self)
        e->sched.destroy(e->sched_self);
    if (e->optim_self)
        e->optim.destroy(e->optim_self);
    storage_destroy(e);
    if (e->comm_self)
        e->comm.finalize(e->comm_self);
    services_destroy(&e->comm_services);
    services_destroy(&e->optim_services);
    services_destroy(&e->sched_services);
    options_destroy(e->comm_options);
    options_destroy(e->optim_options);
    options_destroy(e->sched_options);
    registry_destroy(e->plugins);
    layout_destroy(e->lay);
    for (uint32_t i = 0; e->param_runs && i < e->model->param_count; i++)
        for (uint32_t s = 0; s < ZDS_MAX_STATES; s++)
            free(e->param_runs[i].state_names[s]);
    free(e->param_runs);
    free(e->base_hypers);
    free(e->hypers);
    free(e->declared);
    free(e->group_sizes);
    free(e->globals);
    free(e->sched_values);
    zds_model_destroy(e->model);
    pool_destroy(e->threads);
    ledger_destroy(e->ledger);
    free(e->error);
    free(e);
}
