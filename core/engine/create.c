/* An engine's beginning and end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/internal.h"
#include "host/bootstrap.h"
#include "host/error.h"
#include "host/log.h"
#include "host/proc.h"
#include "host/sized.h"

#define GROUP_DESC_1_0 (offsetof(zds_group_desc, hyper) + ZDS_HYPER_1_0)

static zds_status check_groups(const zds_engine_options *o, zds_error *error)
{
    if (o->groups && o->group_count && o->group_stride < GROUP_DESC_1_0)
        return error_set(error, ZDS_ERR_INVALID,
                         "options.group_stride is %zu; set it to sizeof(zds_group_desc)",
                         o->group_stride);
    for (size_t i = 0; o->groups && i < o->group_count; i++) {
        const char *at = (const char *)o->groups + i * o->group_stride;
        const zds_group_desc *g = (const zds_group_desc *)(const void *)at;
        if (!sized_is_set(g))
            return error_set(error, ZDS_ERR_INVALID, "group %zu: " SIZED_NOT_SET, i,
                             "zds_group_desc", g->struct_size);
    }
    return ZDS_OK;
}

zds_status engine_options(const zds_engine_options *given, zds_engine_options *out,
                          zds_error *error)
{
    *out = (zds_engine_options){.total_steps = -1, .warmup_steps = -1};
    if (!given)
        return ZDS_OK;
    if (!sized_is_set(given))
        return error_set(error, ZDS_ERR_INVALID, SIZED_NOT_SET, "zds_engine_options",
                         given->struct_size);
    memcpy(out, given, given->struct_size < sizeof *out ? given->struct_size : sizeof *out);
    return check_groups(out, error);
}

static zds_status find_launch(launch *l, const zds_engine_options *o, zds_error *error)
{
    zds_status status = launch_read(l, error);
    if (!status && o->timeout_ms < 0)
        return error_set(error, ZDS_ERR_INVALID,
                         "options.timeout_ms is %d; 0 leaves it to ZDS_TIMEOUT",
                         (int)o->timeout_ms);
    if (o->timeout_ms > 0)
        l->timeout_ms = o->timeout_ms;
    if (status || o->world_size == 0)
        return status;
    l->world_size = o->world_size;
    l->rank = o->rank;
    /* 0: the ranks find out who shares a node */
    l->local_world_size = o->world_size == 1 ? 1 : o->local_world_size;
    l->local_rank = l->local_world_size ? o->local_rank : 0;
    if (o->master_addr)
        l->master_addr = o->master_addr;
    if (o->master_port)
        l->master_port = o->master_port;
    else if (!l->master_port && o->world_size > 1)
        l->master_port = LAUNCH_PORT;
    int32_t local = l->local_world_size ? l->local_world_size : l->world_size;
    if (l->world_size < 1 || l->rank < 0 || l->rank >= l->world_size || l->local_rank < 0 ||
        l->local_rank >= local || local > l->world_size)
        return error_set(error, ZDS_ERR_INVALID, "rank %d of %d (local %d of %d) is not possible",
                         l->rank, l->world_size, l->local_rank, l->local_world_size);
    return ZDS_OK;
}

static zds_status create_zero(zds_engine *e, zds_error *error)
{
    const settings *set = &e->set;
    const zero_wishes wishes = {
        .stage = set->stage,
        .param_dtype = set->param_dtype,
        .master_dtype = set->master_dtype,
        .accum_dtype = set->accum_dtype,
        .comm_dtype =
            zds_config_is_set(e->config, "communication_data_type") ? set->comm_dtype : ZERO_AS_IS,
        .reduce_scatter = set->reduce_scatter,
        .overlap = set->overlap,
        .prescale = set->prescale,
        .postscale = set->postscale,
        .sum_factor = set->sum_factor,
        .bucket = set->bucket,
        .keep = set->keep,
        .keep_all = set->keep_all,
        .live = set->live,
        .ahead = set->ahead,
        .reuse = set->reuse,
        .cell = set->cell,
        .quantised_params = set->quantised_params,
        .quantised_frozen = set->quantised_frozen,
        .quantised_grads = set->quantised_grads,
        .stay = e->device.space == ZDS_SPACE_HOST ? set->stay : 0,
        .tell_order = set->tell_order,
        .buffers = set->buffers,
        .reads_ahead = set->reads_ahead,
        .writes_behind = set->writes_behind,
        .ratio = set->ratio,
        .tile = e->device.space == ZDS_SPACE_HOST ? HOST_TILE : DEVICE_TILE,
        .seed = e->seed};
    const zero_means means = {.model = e->model,
                              .params = e->params,
                              .hypers = e->hypers,
                              .optim = &e->optim,
                              .optim_self = &e->optim_self,
                              .optim_services = &e->optim_services,
                              .peers = &e->comm.peers,
                              .control = e->control,
                              .tier = e->tier,
                              .states_tier = e->states_tier ? e->states_tier : e->tier,
                              .params_tier = e->params_tier ? e->params_tier : e->tier,
                              .threads = e->threads,
                              .ledger = e->ledger,
                              .failure = &e->failure};
    if (e->planned && !ledger_count_only(e->ledger))
        return error_set(error, ZDS_ERR_MEMORY, "no memory for a plan");
    e->accum_dtype = set->accum_dtype;
    e->accumulation = set->accumulation;
    e->scale = set->scale;
    return zero_create(&wishes, &means, &e->zero, error);
}

/* Pages come when they are touched, and where there are none the system ends the process: what will
 * be too much is told before. */
static void tell_room(const zds_engine *e)
{
    enum { GIB = 1 << 30, SMALL = 64 << 20 /* fits anywhere */ };
    zds_memory_row row;
    double ranks = e->launch.local_world_size > 0 ? e->launch.local_world_size : 1, bytes = 0;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        if (tiers_are_here(e, row.tier))
            bytes += (double)(row.bytes - row.shared) * ranks + (double)row.shared;
    double left = e->planned || bytes < SMALL ? INFINITY : proc_memory_left("");
    if (bytes <= left)
        return;
    log_line(
        ZDS_LOG_WARNING, e->launch.rank, NULL,
        "%.0f rank(s) of this run take %.2f GiB of this machine's memory, of which %.2f GiB are "
        "left: the system may end them. A higher zero_optimization.stage takes less, and "
        "offload_optimizer or offload_param with device nvme still less; `zds-config "
        "estimate --memory` finds what fits",
        ranks, bytes / GIB, left / GIB);
}

static zds_status build(zds_engine *e, const zds_model *model, const zds_engine_options *o,
                        zds_error *error)
{
    zds_status status = find_launch(&e->launch, o, error);
    if (e->planned)
        launch_assume_one_node(&e->launch);
    else if (!status)
        status = links_meet(e, error);
    if (!status)
        status = settings_read(&e->set, e->config, e->launch.world_size, error);
    if (!status)
        status = pool_create(o->threads, &e->launch, &e->threads, error);
    if (status)
        return status;
    status = plugins_find(e, o, error);
    e->model = status ? NULL : model_copy(model);
    e->holds = e->model ? calloc(e->model->module_count + (size_t)1, sizeof *e->holds) : NULL;
    if (!status && !e->holds)
        status = error_set(error, ZDS_ERR_MEMORY, "no memory for the model's description");
    if (!status)
        status = tiers_open(e, o, error);
    if (!status)
        status = links_open(e, o, error);
    if (!status)
        status = plugins_open_optim(e, o, error);
    if (!status)
        status = groups_create(e, o, error);
    if (!status)
        status = tiers_open_rest(e, error);
    if (!status)
        status = plugins_open_sched(e, o, error);
    if (!status)
        status = check_rates(e, error);
    if (!status)
        status = create_zero(e, error);
    if (!status && e->launch.local_rank == 0)
        tell_room(e);
    if (!status)
        zero_touch(e->zero);
    if (!status && (status = update_hypers(e, 0)) != ZDS_OK)
        error_set(error, status, "%s", zds_engine_error(e));
    return status ? status : zero_prepare(e->zero, error);
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
    e->values_everywhere = o->values_everywhere;
    return e;
}

zds_status zds_engine_create(const zds_config *config, const zds_model *model,
                             const zds_engine_options *options, zds_engine **engine,
                             zds_error *error)
{
    if (!config || !model || !engine)
        return error_set(error, ZDS_ERR_INVALID,
                         "zds_engine_create: config, model and engine must be given");
    zds_engine_options o;
    zds_status status = engine_options(options, &o, error);
    if (status)
        return status;
    zds_engine *e = engine_empty(config, &o);
    if (!e)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for an engine");
    status = build(e, model, &o, error);
    if (status) {
        links_abort(e, error && error->text ? error->text : "the engine could not be created");
        zds_engine_destroy(e);
        return status;
    }
    pool_tell(e->threads, e->launch.rank);
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
    zds_engine_options o;
    zds_status status = engine_options(options, &o, error);
    if (status)
        return status;
    zds_engine *e = engine_empty(config, &o);
    if (!e)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for a plan");
    zds_memory_row row;
    e->planned = true;
    status = build(e, model, &o, error);
    for (size_t i = 0; !status && zds_memory_report(e, i, &row); i++)
        visit(user, &row);
    zds_engine_destroy(e);
    return status;
}

void zds_engine_destroy(zds_engine *e)
{
    if (!e || getpid() != e->process)
        return;
    zero_destroy(e->zero); /* what it has under way uses the optimizer */
    if (e->sched_self)
        e->sched.destroy(e->sched_self);
    if (e->optim_self)
        e->optim.destroy(e->optim_self);
    services_destroy(&e->optim_services); /* what it has on the device is the tier's */
    links_close(e);
    tiers_close(e);
    problems_clear(&e->found);
    services_destroy(&e->sched_services);
    options_destroy(e->optim_options);
    options_destroy(e->sched_options);
    registry_destroy(e->plugins);
    for (uint32_t i = 0; e->params && i < e->model->param_count; i++)
        for (uint32_t s = 0; s < ZDS_MAX_STATES; s++)
            free(e->params[i].state_names[s]);
    free(e->params);
    free(e->base_hypers);
    free(e->hypers);
    free(e->declared);
    free(e->group_sizes);
    free(e->holds);
    free(e->globals);
    free(e->sched_values);
    zds_model_destroy(e->model);
    pool_destroy(e->threads);
    ledger_destroy(e->ledger);
    failure_clear(&e->failure);
    free(e);
}
