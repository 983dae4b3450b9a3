/* Opens the plugins that the config names, or the program where the config is silent. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/bootstrap.h"
#include "host/error.h"
#include "host/locate.h"

zds_status plugins_find(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    char *path = config_plugin_path(e->config);
    zds_status status = registry_create(path, o->plugins, &e->plugins, error);
    free(path);
    return status;
}

/* Whose options are read. */
typedef struct reader {
    zds_engine *engine;
    const char *section; /* "optimizer.params"; "optimizer" of the program's own */
} reader;

static void note(void *user, const char *key, const char *message)
{
    const reader *r = user;
    char path[256];
    snprintf(path, sizeof path, "%s.%.128s", r->section, key);
    engine_note(r->engine, path, message);
}

/* The plugin's options from the config's object or the program's JSON text. */
static zds_status read_options(zds_engine *e, const zds_plugin *plugin, const char *section,
                               const char *text, void **options, zds_error *error)
{
    const char *own = plugin->kind == ZDS_KIND_OPTIM ? "optimizer" : "scheduler";
    reader r = {e, section ? section : own};
    cJSON *parsed = NULL;
    const cJSON *params = section ? config_node(e->config, section) : NULL;
    if (!section && text) {
        params = parsed = cJSON_Parse(text);
        if (!cJSON_IsObject(parsed)) {
            cJSON_Delete(parsed);
            return error_set(error, ZDS_ERR_INVALID,
                             "the program's params of %s are not a JSON object: %s", plugin->name,
                             text);
        }
    }
    size_t before = problems_heard(&e->found);
    *options = options_create(plugin, cJSON_IsNull(params) ? NULL : params, note, &r);
    cJSON_Delete(parsed);
    if (*options)
        return ZDS_OK;
    if (problems_heard(&e->found) == before)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the options of %s", plugin->name);
    char *intro = text_format("%s has problems with its params:\n", plugin->name);
    zds_status status = engine_tell(e, ZDS_ERR_CONFIG, intro ? intro : "", error);
    free(intro);
    return status;
}

typedef struct candidate {
    const zds_comm_env *env;
    const zds_plugin *best;
    int32_t score;
} candidate;

static bool consider(void *user, const zds_plugin *plugin, const char *file)
{
    (void)file;
    candidate *c = user;
    zds_comm_ops ops;
    plugin_ops(plugin, &ops, sizeof ops);
    int32_t score = ops.suits(c->env);
    if (score > c->score) {
        c->score = score;
        c->best = plugin;
    }
    return true;
}

static zds_comm_env comm_env(const launch *place)
{
    return (zds_comm_env){.struct_size = sizeof(zds_comm_env),
                          .rank = place->rank,
                          .world_size = place->world_size,
                          .local_rank = place->local_rank,
                          .local_world_size = place->local_world_size,
                          .master_addr = place->master_addr,
                          .master_port = place->master_port,
                          .timeout_ms = place->timeout_ms,
                          .device = {.space = ZDS_SPACE_HOST}};
}

/* No such plugin, or none that fits. `type`: the key that names it. */
static zds_status refuse_name(zds_engine *e, zds_status status, const char *type, zds_error *found,
                              zds_error *error)
{
    status = engine_refuse(e, status, type, error, "%s", found->text ? found->text : "not found");
    zds_error_clear(found);
    return status;
}

/* What its facts say of these ranks. */
static zds_status check_ranks(const zds_plugin *plugin, const zds_comm_env *env, zds_error *error)
{
    zds_comm_ops ops;
    plugin_ops(plugin, &ops, sizeof ops);
    if (!(ops.spaces & ZDS_SPACE_BIT(env->device.space)))
        return error_set(error, ZDS_ERR_UNSUPPORTED, "%s does not move memory of this device",
                         plugin->name);
    if (env->world_size < ops.least_ranks || (ops.most_ranks && env->world_size > ops.most_ranks))
        return error_set(error, ZDS_ERR_UNSUPPORTED, "%s connects %d to %d ranks, and there are %d",
                         plugin->name, ops.least_ranks,
                         ops.most_ranks ? ops.most_ranks : LAUNCH_MOST, env->world_size);
    if (ops.flags & ZDS_COMM_ONE_NODE && env->local_world_size != env->world_size)
        return error_set(error, ZDS_ERR_UNSUPPORTED,
                         "%s connects ranks of one node, and %d of %d are on this one; use one that"
                         " connects nodes",
                         plugin->name, env->local_world_size, env->world_size);
    return ZDS_OK;
}

/* The one that is named, else the one that suits the ranks best; NULL if none does. */
static zds_status choose_comm(zds_engine *e, const zds_engine_options *o, const zds_comm_env *env,
                              const zds_plugin **plugin, zds_error *error)
{
    const char *name = o->comm ? o->comm : zds_config_string(e->config, "zds.comm"), *file;
    *plugin = NULL;
    zds_error found = ZDS_ERROR_INIT;
    if (name) {
        zds_status status =
            registry_find(e->plugins, ZDS_KIND_COMM, name, NULL, plugin, &file, &found);
        if (!status)
            status = check_ranks(*plugin, env, &found);
        if (status && !o->comm)
            return refuse_name(e, status, "zds.comm", &found, error);
        if (status)
            error_set(error, status, "%s", found.text ? found.text : "not found");
        zds_error_clear(&found);
        return status;
    }
    candidate c = {.env = env};
    const registry_match match = {
        .space = env->device.space, .ranks = env->world_size, .local_ranks = env->local_world_size};
    zds_status status = registry_each(e->plugins, ZDS_KIND_COMM, &match, consider, &c, error);
    *plugin = c.best;
    return status;
}

zds_status plugins_meet(zds_engine *e, zds_error *error)
{
    char identity[LAUNCH_HOST];
    const zds_comm_env env = comm_env(&e->place);
    e->bootstrap = bootstrap_open(&env);
    if (!e->bootstrap)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the ranks' first exchange");
    launch_host_identity(identity, sizeof identity);
    return locate_ranks(&e->place, e->bootstrap, identity, error);
}

zds_status plugins_open_comm(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    zds_comm_env env = comm_env(&e->place);
    const zds_plugin *plugin;
    zds_status status = choose_comm(e, o, &env, &plugin, error);
    if (status)
        return status;
    if (!plugin)
        return error_set(error, ZDS_ERR_NOT_FOUND,
                         "no communication plugin can connect %d ranks (%d of them on this node); "
                         "`zds-plugins --list --kind "
                         "comm` shows those there are",
                         env.world_size, env.local_world_size);
    plugin_ops(plugin, &e->comm, sizeof e->comm);
    services_init(&e->comm_services, plugin->name, e->place.rank, e->ledger, e->threads);
    env.bootstrap = bootstrap_offer(e->bootstrap);
    status = read_options(e, plugin, NULL, NULL, &e->comm_options, error);
    if (!status && (status = e->comm.init(&e->comm_services.host, e->comm_options, &env,
                                          &e->comm_self)) != ZDS_OK) {
        e->comm_self = NULL;
        error_set(error, status, "rank %d, comm plugin %s: %s", e->place.rank, plugin->name,
                  services_error(&e->comm_services));
    }
    bootstrap_finish(e->bootstrap);
    return status;
}

zds_status plugins_plan_comm(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    zds_comm_env env = comm_env(&e->place);
    const zds_plugin *plugin;
    zds_status status = choose_comm(e, o, &env, &plugin, error);
    zds_comm_ops *ops = &e->comm;
    if (plugin) {
        plugin_ops(plugin, ops, sizeof *ops);
    } else {
        ops->flags = ZDS_COMM_FUSED | ZDS_COMM_NODE_SHARED;
        ops->reduce_dtypes =
            ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_F16) | ZDS_DTYPE_BIT(ZDS_BF16);
    }
    services_init(&e->comm_services, "plan", e->place.rank, e->ledger, e->threads);
    return status;
}

static zds_status check_optim(zds_engine *e, const char *file, zds_error *error)
{
    static const char *const stage = "zero_optimization.stage", *const untested =
                                                                    "zero_allow_untested_optimizer";
    const char *name = e->optim_plugin->name;
    bool diverges = e->optim.flags & ZDS_OPTIM_PARAMS_DIVERGE;
    if (e->optim.reduction_mode && e->set.stage >= 2)
        return engine_refuse(e, ZDS_ERR_UNSUPPORTED, stage, error,
                             "optimizer %s reduces gradients by itself, for which each rank must "
                             "hold its own whole gradient, which stage %d deals out; write 0%s",
                             name, e->set.stage, diverges ? "" : " or 1");
    if (diverges && e->set.stage >= 1)
        return engine_refuse(
            e, ZDS_ERR_UNSUPPORTED, stage, error,
            "parameters under optimizer %s differ between ranks for some steps, so "
            "each rank must update all of its own; write 0 instead of %d",
            name, e->set.stage);
    if (zds_config_is_set(e->config, untested) && !zds_config_bool(e->config, untested) &&
        e->set.stage >= 1 && !registry_is_own(e->plugins, file))
        return engine_refuse(e, ZDS_ERR_CONFIG, untested, error,
                             "%s: false, but optimizer %s at zero_optimization.stage %d does not "
                             "come with zds (%s); set the key to true or remove it",
                             zds_config_combination(e->config), name, e->set.stage,
                             *file ? file : "linked into the program");
    return ZDS_OK;
}

/* Without `create` there is nobody to ask for more than the masks name. */
static zds_status create_optim(zds_engine *e, const zds_optim_env *env)
{
    const zds_host *host = &e->optim_services.host;
    if (e->optim.create)
        return e->optim.create(host, e->optim_options, env, &e->optim_self);
    if (env->state_dtype != ZDS_F32)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "keeps its states in float32; remove "
                          "bf16_optimizer_states");
    if (env->stochastic_rounding)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "rounds to nearest; remove "
                          "zds.stochastic_rounding");
    return ZDS_OK;
}

static void note_warning(void *user, const char *warning)
{
    zds_engine *e = user;
    char path[256], *text = text_format("%s: %s", zds_config_combination(e->config), warning);
    config_path_in(e->config, "scheduler.params", warning, path, sizeof path);
    e->warned->failed |= !text;
    if (text)
        config_note(e->config, e->warned, ZDS_PROBLEM_WARNING,
                    strcmp(path, "scheduler.params") == 0 ? "scheduler" : path, text);
    free(text);
}

/* Schedules warn of optimizers that they cannot move all of. */
static void hear_warnings(zds_engine *e, services *s)
{
    s->hear = e->warned ? note_warning : NULL;
    s->hear_user = e;
}

zds_status plugins_open_optim(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    const char *name = zds_config_string(e->config, "optimizer.type");
    const char *section = name ? "optimizer.params" : NULL;
    if (!name)
        name = o->optimizer;
    if (!name)
        return error_set(error, ZDS_ERR_CONFIG,
                         "no optimizer: write an optimizer section into the config, or let the "
                         "program name one");
    zds_optim_env env = {.struct_size = sizeof env,
                         .space = ZDS_SPACE_HOST,
                         .master_dtype = e->set.master_dtype,
                         .grad_dtype = e->set.accum_dtype,
                         .output_dtype = e->set.param_dtype,
                         .state_dtype = e->set.state_dtype,
                         .stochastic_rounding = e->set.stochastic_rounding,
                         .world_size = e->place.world_size,
                         .rank = e->place.rank,
                         .seed = e->seed,
                         .sharded = e->set.stage >= 1 && e->place.world_size > 1};
    for (uint32_t i = 0; i < e->model->param_count; i++)
        if (!e->model->params[i].frozen) {
            env.trainable_params++;
            env.trainable_elements += e->model->params[i].numel;
        }
    registry_match match = {.space = env.space,
                            .grad_dtype = env.grad_dtype,
                            .master_dtype = env.master_dtype,
                            .output_dtype = env.output_dtype};
    const char *file;
    zds_error found = ZDS_ERROR_INIT;
    zds_status status =
        registry_find(e->plugins, ZDS_KIND_OPTIM, name, &match, &e->optim_plugin, &file, &found);
    if (status)
        return refuse_name(e, status, section ? "optimizer.type" : "optimizer", &found, error);
    plugin_ops(e->optim_plugin, &e->optim, sizeof e->optim);
    services_init(&e->optim_services, e->optim_plugin->name, e->place.rank, e->ledger, e->threads);
    hear_warnings(e, &e->optim_services);
    status = check_optim(e, file, error);
    if (!status)
        status = read_options(e, e->optim_plugin, section, o->optimizer_params, &e->optim_options,
                              error);
    if (!status && (status = create_optim(e, &env)) != ZDS_OK) {
        const char *why = services_error(&e->optim_services);
        e->optim_self = NULL;
        engine_refuse_in(e, status, section ? section : "optimizer", why, error, "optimizer %s: %s",
                         e->optim_plugin->name, why);
    }
    return status;
}

zds_status plugins_open_sched(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    const char *name = zds_config_string(e->config, "scheduler.type");
    const char *section = name ? "scheduler.params" : NULL;
    if (!name)
        name = o->scheduler;
    if (!name)
        return ZDS_OK;
    zds_sched_env env = {.struct_size = sizeof env,
                         .group_count = e->hyper_count,
                         .hyper_stride = sizeof *e->base_hypers,
                         .base = e->base_hypers,
                         .total_steps = o->total_steps > 0 ? o->total_steps : -1,
                         .warmup_steps =
                             o->warmup_steps > 0 || o->total_steps > 0 ? o->warmup_steps : -1,
                         .declared = e->declared,
                         .declared_count = e->declared_count,
                         .default_lr = options_hyper(e->optim_plugin, e->optim_options).lr};
    const zds_plugin *plugin;
    const char *file;
    zds_error found = ZDS_ERROR_INIT;
    zds_status status =
        registry_find(e->plugins, ZDS_KIND_SCHED, name, NULL, &plugin, &file, &found);
    if (status)
        return refuse_name(e, status, section ? "scheduler.type" : "scheduler", &found, error);
    plugin_ops(plugin, &e->sched, sizeof e->sched);
    services_init(&e->sched_services, plugin->name, e->place.rank, e->ledger, e->threads);
    hear_warnings(e, &e->sched_services);
    status = read_options(e, plugin, section, o->scheduler_params, &e->sched_options, error);
    if (!status && (status = e->sched.create(&e->sched_services.host, e->sched_options, &env,
                                             &e->sched_self)) != ZDS_OK) {
        const char *why = services_error(&e->sched_services);
        e->sched_self = NULL;
        engine_refuse_in(e, status, section ? section : "scheduler", why, error,
                         "%s: scheduler %s: %s", zds_config_combination(e->config), plugin->name,
                         why);
    }
    e->has_sched = !status;
    return status;
}
