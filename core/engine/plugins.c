/* Opens the plugins that the config names, or the program where the config is silent. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/error.h"

zds_status plugins_find(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    char *path = config_plugin_path(e->config);
    zds_status status =
        registry_create(path, o->plugins, o->trust_config_plugins, &e->plugins, error);
    free(path);
    return status;
}

/* Whose options are read. */
typedef struct reader {
    zds_engine *engine;
    const char *section; /* "optimizer.params"; "optimizer" of the program's own */
    const cJSON *params; /* of it, where others come from aio */
} reader;

static void note(void *user, const char *key, const char *message)
{
    const reader *r = user;
    char path[256];
    bool of_aio = r->params && !cJSON_GetObjectItemCaseSensitive(r->params, key);
    snprintf(path, sizeof path, "%s.%.128s", of_aio ? "aio" : r->section, key);
    engine_note(r->engine, path, message);
}

static zds_status read_object(zds_engine *e, const zds_plugin *plugin, reader *r,
                              const cJSON *params, void **options, zds_error *error)
{
    size_t before = problems_heard(&e->found);
    *options = options_create(plugin, cJSON_IsNull(params) ? NULL : params, note, r);
    if (*options)
        return ZDS_OK;
    if (problems_heard(&e->found) == before)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the options of %s", plugin->name);
    char *intro = text_format("%s has problems with its params:\n", plugin->name);
    zds_status status = engine_tell(e, ZDS_ERR_CONFIG, intro ? intro : "", error);
    free(intro);
    return status;
}

/* What the tier has options for of the section aio, and its own params do not say. */
static bool add_aio(const zds_engine *e, const zds_plugin *plugin, cJSON *to)
{
    const cJSON *key;
    cJSON_ArrayForEach(key, config_node(e->config, "aio"))
    {
        if (!options_find(plugin, key->string) || cJSON_GetObjectItemCaseSensitive(to, key->string))
            continue;
        cJSON *copy = cJSON_Duplicate(key, true);
        if (!copy || !cJSON_AddItemToObject(to, key->string, copy)) {
            cJSON_Delete(copy);
            return false;
        }
    }
    return true;
}

zds_status plugins_read_tier(zds_engine *e, const zds_plugin *plugin, const char *section,
                             void **options, zds_error *error)
{
    const cJSON *own = config_node(e->config, section);
    cJSON *none = cJSON_CreateObject(),
          *all = cJSON_IsObject(own) ? cJSON_Duplicate(own, true) : cJSON_CreateObject();
    reader r = {e, section, cJSON_IsObject(own) ? own : none};
    zds_status status =
        none && all && add_aio(e, plugin, all)
            ? read_object(e, plugin, &r, all, options, error)
            : error_set(error, ZDS_ERR_MEMORY, "no memory for the options of %s", plugin->name);
    cJSON_Delete(all);
    cJSON_Delete(none);
    return status;
}

/* The plugin's options from the config's object or the program's JSON text. */
zds_status plugins_read_options(zds_engine *e, const zds_plugin *plugin, const char *section,
                                const char *text, void **options, zds_error *error)
{
    static const char *const owns[] = {[ZDS_KIND_OPTIM] = "optimizer",
                                       [ZDS_KIND_SCHED] = "scheduler",
                                       [ZDS_KIND_OFFLOAD] = "zds.tiers",
                                       [ZDS_KIND_COMM] = "zds.comm"};
    reader r = {e, section ? section : owns[plugin->kind], NULL};
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
    zds_status status = read_object(e, plugin, &r, params, options, error);
    cJSON_Delete(parsed);
    return status;
}

/* No such plugin, or none that fits. `type`: the key that names it. */
zds_status plugins_refuse_name(zds_engine *e, zds_status status, const char *type, zds_error *found,
                               zds_error *error)
{
    status = engine_refuse(e, status, type, error, "%s", found->text ? found->text : "not found");
    zds_error_clear(found);
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
    if (e->optim.reduction_mode && e->comm.self && e->device.space == ZDS_SPACE_HOST &&
        !(e->comm.ops.flags & ZDS_COMM_COPIES))
        return engine_refuse(
            e, ZDS_ERR_UNSUPPORTED, "optimizer.type", error,
            "optimizer %s reduces gradients by itself, in memory of its own, which "
            "communication plugin %s does not take; leave zds.comm out, or name "
            "another optimizer",
            name, e->comm.services.name);
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
                         .space = e->device.space,
                         .master_dtype = e->set.master_dtype,
                         .grad_dtype = e->set.accum_dtype,
                         .output_dtype = e->set.param_dtype,
                         .state_dtype = e->set.state_dtype,
                         .stochastic_rounding = e->set.stochastic_rounding,
                         .world_size = e->launch.world_size,
                         .rank = e->launch.rank,
                         .seed = e->seed,
                         .sharded = e->set.stage >= 1 && e->launch.world_size > 1,
                         .has_output = e->set.master_dtype != e->set.param_dtype || e->states_rest,
                         .ordinal = e->device.ordinal};
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
    zds_status status = (section ? registry_find_of_config : registry_find)(
        e->plugins, ZDS_KIND_OPTIM, name, &match, &e->optim_plugin, &file, &found);
    if (status)
        return plugins_refuse_name(e, status, section ? "optimizer.type" : "optimizer", &found,
                                   error);
    plugin_ops(e->optim_plugin, &e->optim, sizeof e->optim);
    services_init(&e->optim_services, e->optim_plugin->name, e->launch.rank, e->ledger, e->threads);
    if (e->device.space != ZDS_SPACE_HOST)
        services_on(&e->optim_services, e->tier, e->device);
    hear_warnings(e, &e->optim_services);
    status = check_optim(e, file, error);
    if (!status)
        status = plugins_read_options(e, e->optim_plugin, section, o->optimizer_params,
                                      &e->optim_options, error);
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
    zds_status status = (section ? registry_find_of_config : registry_find)(
        e->plugins, ZDS_KIND_SCHED, name, NULL, &plugin, &file, &found);
    if (status)
        return plugins_refuse_name(e, status, section ? "scheduler.type" : "scheduler", &found,
                                   error);
    plugin_ops(plugin, &e->sched, sizeof e->sched);
    services_init(&e->sched_services, plugin->name, e->launch.rank, e->ledger, e->threads);
    hear_warnings(e, &e->sched_services);
    status =
        plugins_read_options(e, plugin, section, o->scheduler_params, &e->sched_options, error);
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
