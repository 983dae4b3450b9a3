/* An engine's beginning and end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/internal.h"
#include "host/bootstrap.h"
#include "host/error.h"
#include "host/log.h"
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
        if (!sized_reaches(g, GROUP_DESC_1_0))
            return error_set(error, ZDS_ERR_INVALID, "group %zu: " SIZED_TOO_SHORT, i,
                             "zds_group_desc", g->struct_size, GROUP_DESC_1_0);
        if (!sized_reaches(&g->hyper, ZDS_HYPER_1_0))
            return error_set(error, ZDS_ERR_INVALID, "group %zu: " SIZED_TOO_SHORT, i, "zds_hyper",
                             g->hyper.struct_size, ZDS_HYPER_1_0);
    }
    return ZDS_OK;
}

zds_status engine_options(const zds_engine_options *given, zds_engine_options *out,
                          zds_error *error)
{
    *out = (zds_engine_options){.total_steps = -1, .warmup_steps = -1};
    if (!given)
        return ZDS_OK;
    const size_t least = ZDS_SIZE_THROUGH(zds_engine_options, reserved_end);
    if (!sized_reaches(given, least))
        return error_set(error, ZDS_ERR_INVALID, SIZED_TOO_SHORT, "zds_engine_options",
                         given->struct_size, least);
    sized_read(out, sizeof *out, given);
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
    bool host = e->device.space == ZDS_SPACE_HOST;
    zero_wishes wishes = set->zero;
    wishes.stage = set->stage;
    wishes.param_dtype = set->param_dtype;
    wishes.master_dtype = set->master_dtype;
    wishes.accum_dtype = set->accum_dtype;
    wishes.comm_dtype =
        zds_config_is_set(e->config, "communication_data_type") ? set->comm_dtype : ZERO_AS_IS;
    wishes.finite = set->check_overflow;
    wishes.adds = set->accumulation > 1 || !set->managed_accumulation;
    wishes.stay = host ? wishes.stay : 0;
    wishes.tile = host ? HOST_TILE : DEVICE_TILE;
    wishes.seed = e->seed;
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
                              .host_tier = e->host_tier ? e->host_tier : e->tier,
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

static void tell_room(const zds_engine *e, const zds_model *model, const zds_engine_options *o)
{
    char *text = e->planned || e->launch.local_rank ? NULL : room_text(e, model, o, -1);
    if (text)
        log_line(ZDS_LOG_WARNING, e->launch.rank, NULL, "%s", text);
    free(text);
}

/* A plan of the same run in another way. */
static void settle_otherwise(zds_engine *e)
{
    if (!e->instead)
        return;
    e->set.stage = e->instead->stage;
    e->set.strict |= e->set.stage == 3;
    e->set.states_tier = e->instead->states;
    e->set.params_tier = e->instead->params;
    if (e->instead->params) {
        e->set.zero.stay = 0;
        e->set.zero.live = e->instead->live;
    }
}

zds_status engine_build(zds_engine *e, const zds_model *model, const zds_engine_options *o,
                        zds_error *error)
{
    zds_status status = find_launch(&e->launch, o, error);
    if (e->planned)
        launch_assume_one_node(&e->launch);
    else if (!status)
        status = links_meet(e, error);
    if (!status)
        status = settings_read(&e->set, e->config, e->launch.world_size, error);
    settle_otherwise(e);
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
    if (!status)
        tell_room(e, model, o);
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
    status = engine_build(e, model, &o, error);
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
    status = engine_build(e, model, &o, error);
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
