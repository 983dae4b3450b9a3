/* Opens the memory tiers of an engine: where parameters are computed, the host's where that is
 * another, and where masters and states rest. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/error.h"
#include "plugin/descriptor.h"

enum { TIER_PATH = 256 }; /* longest path of a tier's key */

static const char *const spaces[ZDS_SPACE_COUNT] = {[ZDS_SPACE_HOST] = "host",
                                                    [ZDS_SPACE_CUDA] = "cuda",
                                                    [ZDS_SPACE_HIP] = "hip",
                                                    [ZDS_SPACE_SYCL] = "sycl",
                                                    [ZDS_SPACE_TEST] = "test"};

/* The device that the program or the config asks for. */
static zds_status read_device(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    const char *name = zds_config_string(e->config, "zds.device");
    zds_space space = o->device.space;
    if (space < 0 || space >= ZDS_SPACE_COUNT || !spaces[space])
        return error_set(error, ZDS_ERR_INVALID,
                         "options.device: space %d is none in which parameters are computed",
                         space);
    e->device = o->device;
    if (e->device.space == ZDS_SPACE_HOST && name) {
        e->device.ordinal = -1;
        for (zds_space s = 0; s < ZDS_SPACE_COUNT; s++)
            if (spaces[s] && strcmp(spaces[s], name) == 0)
                e->device.space = s;
    }
    if (e->device.space == ZDS_SPACE_HOST)
        e->device.ordinal = 0;
    else if (e->device.ordinal < 0)
        e->device.ordinal = e->launch.local_rank;
    return ZDS_OK;
}

typedef struct search {
    zds_space space;
    const zds_plugin *found;
} search;

static bool is_of_space(void *user, const zds_plugin *plugin, const char *file)
{
    (void)file;
    search *s = user;
    zds_offload_ops ops;
    plugin_ops(plugin, &ops, sizeof ops);
    if (ops.space == s->space && ops.flags & ZDS_OFFLOAD_DIRECT)
        s->found = plugin;
    return !s->found;
}

/* A tier by the name that zds.tiers and the memory report have for it, before it is open. */
typedef struct wanted {
    const char *name;
    struct tier_plugin *slot;
    char type[TIER_PATH], params[TIER_PATH]; /* keys */
} wanted;

static wanted want(const char *name, struct tier_plugin *slot)
{
    wanted w = {.name = name, .slot = slot};
    snprintf(w.type, sizeof w.type, "zds.tiers.%s.type", name);
    snprintf(w.params, sizeof w.params, "zds.tiers.%s.params", name);
    return w;
}

static zds_status find_by_name(zds_engine *e, const wanted *w, const char *name, zds_error *error)
{
    const char *file;
    zds_error found = ZDS_ERROR_INIT;
    zds_status status = registry_find_of_config(e->plugins, ZDS_KIND_OFFLOAD, name, NULL,
                                                &w->slot->plugin, &file, &found);
    return status ? plugins_refuse_name(e, status, w->type, &found, error) : ZDS_OK;
}

/* The one that holds the device's memory. */
static zds_status find_by_space(zds_engine *e, const wanted *w, zds_error *error)
{
    search s = {.space = e->device.space};
    zds_status status = registry_each(e->plugins, ZDS_KIND_OFFLOAD, NULL, is_of_space, &s, error);
    w->slot->plugin = s.found;
    if (status || s.found)
        return status;
    return engine_refuse(
        e, ZDS_ERR_NOT_FOUND, "zds.device", error,
        "there is no memory tier for %s; `zds-plugins --list --kind offload` shows "
        "those there are, and %s names one by its path",
        w->name, w->type);
}

static bool is_own(const char *name)
{
    return strcmp(name, "host") == 0 || strcmp(name, "cpu") == 0;
}

/* What zds.tiers says, else zds's own for the host, what holds the device's memory, or the plugin
 * that is called as the tier is. */
static zds_status find(zds_engine *e, const wanted *w, zds_error *error)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(config_tier(e->config, w->name), "type");
    bool named = cJSON_IsString(type), own = is_own(w->name);
    bool by_space = !named && !own && strcmp(w->name, spaces[e->device.space]) == 0;
    const char *name = named ? type->valuestring : own ? "cpu" : w->name;
    zds_status status = by_space ? find_by_space(e, w, error) : find_by_name(e, w, name, error);
    return status ? status
                  : plugins_read_tier(e, w->slot->plugin, w->params, &w->slot->options, error);
}

/* Parameters are computed with where they are. */
static zds_status find_compute(zds_engine *e, const char *name, struct tier_plugin *slot,
                               zds_space space, zds_error *error)
{
    wanted w = want(name, slot);
    zds_offload_ops ops;
    zds_status status = find(e, &w, error);
    if (status)
        return status;
    plugin_ops(slot->plugin, &ops, sizeof ops);
    if (ops.space == space && ops.flags & ZDS_OFFLOAD_DIRECT)
        return ZDS_OK;
    return engine_refuse(e, ZDS_ERR_UNSUPPORTED, w.type, error,
                         "%s is not memory of %s that is used in place (ZDS_OFFLOAD_DIRECT)",
                         slot->plugin->name, spaces[space]);
}

/* Masters and states are updated in place, or are streamed: on a device by its tier, on its queues,
 * for which it needs an address at the other end; from files to the host by theirs, and from there
 * on to a device. */
static zds_status find_states(zds_engine *e, const char *name, zds_error *error)
{
    struct tier_plugin *slot = &e->tier_plugins[2];
    wanted w = want(name, slot);
    zds_offload_ops ops;
    zds_status status = find(e, &w, error);
    if (status)
        return status;
    plugin_ops(slot->plugin, &ops, sizeof ops);
    bool on_host = e->device.space == ZDS_SPACE_HOST;
    e->states_rest = ops.space == ZDS_SPACE_FILE || (!on_host && ops.space != e->device.space);
    if (ops.space == ZDS_SPACE_FILE)
        return ZDS_OK;
    if (!(ops.flags & ZDS_OFFLOAD_DIRECT))
        return engine_refuse(e, ZDS_ERR_UNSUPPORTED, w.type, error,
                             "masters and states are %s, and %s has no addresses for that "
                             "(ZDS_OFFLOAD_DIRECT)",
                             e->states_rest ? "copied by the device" : "updated in place",
                             slot->plugin->name);
    if (on_host && space_is_device(ops.space))
        return engine_refuse(e, ZDS_ERR_UNSUPPORTED, w.type, error,
                             "parameters are in the host's memory, where masters and states are "
                             "updated in place, and the memory of %s is elsewhere",
                             slot->plugin->name);
    return ZDS_OK;
}

/* Parameters are gathered from where they rest: files, or on a device memory that its tier reaches.
 */
static zds_status find_params(zds_engine *e, const char *name, zds_error *error)
{
    struct tier_plugin *slot = &e->tier_plugins[3];
    wanted w = want(name, slot);
    zds_offload_ops ops;
    bool on_host = e->device.space == ZDS_SPACE_HOST;
    zds_status status = find(e, &w, error);
    if (status)
        return status;
    plugin_ops(slot->plugin, &ops, sizeof ops);
    if (ops.space == ZDS_SPACE_FILE ||
        (!on_host && ops.flags & ZDS_OFFLOAD_DIRECT && !space_is_device(ops.space)))
        return ZDS_OK;
    return engine_refuse(e, ZDS_ERR_UNSUPPORTED, w.type, error,
                         "parameters are computed in %s, and %s has %s: offload_param moves them "
                         "to files%s",
                         spaces[e->device.space], slot->plugin->name,
                         space_is_device(ops.space) ? "a device's memory"
                                                    : "memory of the host as well",
                         on_host ? "" : " or to the host's memory");
}

/* === names that nothing reads === */

static const char *const sections[] = {"zero_optimization.offload_optimizer.device",
                                       "zero_optimization.offload_param.device"};

static bool is_read(const zds_engine *e, const char *name)
{
    bool read = is_own(name) || strcmp(name, spaces[e->device.space]) == 0;
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        const char *device = zds_config_string(e->config, sections[i]);
        read |= device && strcmp(device, name) == 0 && config_tier(e->config, name);
    }
    return read && strlen(name) < TIER_PATH / 2;
}

static zds_status check_names(zds_engine *e, zds_error *error)
{
    const cJSON *section;
    zds_status status = ZDS_OK;
    bool on_host = e->device.space == ZDS_SPACE_HOST;
    cJSON_ArrayForEach(section, config_node(e->config, "zds.tiers"))
    {
        if (is_read(e, section->string))
            continue;
        char *path = text_format("zds.tiers.%s", section->string),
             *text = text_format("nothing reads it; here may stand host, cpu%s%s and what %s or "
                                 "offload_param.device names",
                                 on_host ? "" : ", ", on_host ? "" : spaces[e->device.space],
                                 sections[0]);
        status = ZDS_ERR_CONFIG;
        if (path && text)
            engine_note(e, path, text);
        else
            e->found.failed = true;
        free(path);
        free(text);
    }
    return status ? engine_tell(e, status, "", error) : ZDS_OK;
}

/* === all of them === */

/* A sample goes on, for all that is refused; of a device that cannot be had no more is asked. */
static zds_status find_all(zds_engine *e, zds_error *error)
{
    const char *device = spaces[e->device.space], *states = e->set.states_tier,
               *params = e->set.params_tier;
    struct tier_plugin *slots = e->tier_plugins;
    zds_status first = check_names(e, error), status = ZDS_OK, compute = ZDS_OK;
    if (!first || e->sample)
        compute = find_compute(e, device, &slots[0], e->device.space, error);
    first = first ? first : compute;
    if (e->device.space != ZDS_SPACE_HOST && (!first || e->sample))
        status = find_compute(e, "host", &slots[1], ZDS_SPACE_HOST, error);
    first = first ? first : status;
    bool here = !params || strcmp(params, device) == 0 ||
                (is_own(params) && e->device.space == ZDS_SPACE_HOST);
    if (!here && (!first || e->sample))
        status = find_params(e, params, error);
    first = first ? first : status;
    /* A section that names where parameters are anyway moves nothing. */
    if (states && strcmp(states, device) != 0 && (!first || e->sample))
        status = find_states(e, states, error);
    if (compute)
        e->device = (zds_device){.space = ZDS_SPACE_HOST};
    return first ? first : status;
}

static zds_status open_one(zds_engine *e, const char *name, size_t slot, zds_offload_env env,
                           tier **out, zds_error *error)
{
    zds_offload_ops ops = {.space = ZDS_SPACE_HOST};
    const struct tier_plugin *p = &e->tier_plugins[slot];
    if (p->plugin) /* a sample goes on without */
        plugin_ops(p->plugin, &ops, sizeof ops);
    zds_device device = {.space = ops.space};
    if (space_is_device(ops.space))
        device.ordinal = e->device.ordinal;
    if (e->planned)
        return tier_plan(name, device, e->ledger, e->threads, out, error);
    env.struct_size = sizeof env;
    env.rank = e->launch.rank;
    env.local_rank = e->launch.local_rank;
    env.device = space_is_device(ops.space) ? device.ordinal : -1;
    return tier_open(name, p->plugin, p->options, &env, e->ledger, e->threads, out, error);
}

zds_status tiers_open(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    const zds_offload_env env = {0}; /* no section of the config says more */
    zds_status status = read_device(e, o, error);
    bool elsewhere = e->device.space != ZDS_SPACE_HOST;
    zds_status found = status ? status : find_all(e, error);
    if (found && !e->sample)
        return found;
    status = open_one(e, spaces[e->device.space], 0, env, &e->tier, error);
    if (!status && !e->planned)
        e->device = e->tier->info.device;
    if (!status && elsewhere)
        status = open_one(e, "host", 1, env, &e->host_tier, error);
    return status ? status : found;
}

/* Of masters and states of this rank, without what pads them. */
static uint64_t bytes_needed(const zds_engine *e)
{
    bool apart = e->states_rest || e->set.master_dtype != e->set.param_dtype;
    uint64_t bytes = 0, ranks = (uint64_t)e->launch.world_size;
    for (uint32_t i = 0; i < e->model->param_count; i++) {
        const zds_param_needs *needs = &e->params[i].needs;
        uint64_t numel = e->model->params[i].numel;
        if (e->model->params[i].frozen)
            continue;
        bytes += apart ? numel * zds_dtype_size(e->set.master_dtype) : 0;
        for (uint32_t s = 0; s < needs->state_count; s++) {
            const zds_state_spec *spec = &needs->states[s];
            if (spec->kind == ZDS_STATE_ELEMENT)
                bytes += numel * zds_dtype_size(spec->dtype);
            else if (spec->kind == ZDS_STATE_BLOCK)
                bytes += (numel + spec->block - 1) / spec->block * spec->bytes;
        }
    }
    return (bytes + ranks - 1) / ranks;
}

/* Whether the device's tier can stream what rests there. */
static zds_status check_states(zds_engine *e, zds_error *error)
{
    const zds_offload_info *at = &e->tier->info, *rest = &e->states_tier->info;
    wanted w = want(e->states_tier->name, NULL);
    if (rest->device.space == ZDS_SPACE_FILE && !(rest->reaches & ZDS_SPACE_BIT(ZDS_SPACE_HOST)))
        return engine_refuse(e, ZDS_ERR_UNSUPPORTED, w.type, error,
                             "masters and states are computed in the host's memory, which memory "
                             "tier %s does not reach",
                             e->states_tier->name);
    if (rest->device.space == ZDS_SPACE_FILE)
        return ZDS_OK;
    if (e->states_rest && !(at->reaches & ZDS_SPACE_BIT(rest->device.space)))
        return engine_refuse(e, ZDS_ERR_UNSUPPORTED, w.type, error,
                             "masters and states are copied by the device, and memory tier %s does "
                             "not reach where %s has them",
                             e->tier->name, e->states_tier->name);
    if (!e->states_rest && at->device.ordinal != rest->device.ordinal)
        return engine_refuse(e, ZDS_ERR_UNSUPPORTED, w.type, error,
                             "masters and states are updated in place, and %s has them on another "
                             "device",
                             e->states_tier->name);
    return ZDS_OK;
}

/* Bytes of this rank's parts of all parameters, without what pads them. */
static uint64_t param_bytes(const zds_engine *e)
{
    uint64_t bytes = 0, ranks = (uint64_t)e->launch.world_size;
    for (uint32_t i = 0; i < e->model->param_count; i++)
        bytes += e->model->params[i].numel * zds_dtype_size(e->set.param_dtype);
    return (bytes + ranks - 1) / ranks;
}

static zds_status open_params(zds_engine *e, zds_error *error)
{
    if (!e->tier_plugins[3].plugin)
        return ZDS_OK;
    const zds_offload_env env = {
        .pin_memory = zds_config_bool(e->config, "zero_optimization.offload_param.pin_memory"),
        .path = zds_config_string(e->config, "zero_optimization.offload_param.nvme_path"),
        .capacity_hint = param_bytes(e)};
    zds_status status = open_one(e, e->set.params_tier, 3, env, &e->params_tier, error);
    wanted w = want(e->set.params_tier, NULL);
    if (status || e->planned)
        return status;
    const zds_offload_info *at = &e->tier->info, *rest = &e->params_tier->info;
    bool reaches = rest->device.space == ZDS_SPACE_FILE
                       ? rest->reaches & ZDS_SPACE_BIT(ZDS_SPACE_HOST)
                       : at->reaches & ZDS_SPACE_BIT(rest->device.space);
    return reaches ? ZDS_OK
                   : engine_refuse(e, ZDS_ERR_UNSUPPORTED, w.type, error,
                                   "parameters are computed in memory tier %s, between which and "
                                   "%s neither copies",
                                   e->tier->name, e->params_tier->name);
}

zds_status tiers_open_rest(zds_engine *e, zds_error *error)
{
    const char *path =
        zds_config_string(e->config, "zero_optimization.offload_optimizer.nvme_path");
    zds_status status = open_params(e, error);
    if (status || !e->tier_plugins[2].plugin)
        return status;
    const zds_offload_env env = {
        .pin_memory = zds_config_bool(e->config, "zero_optimization.offload_optimizer.pin_memory"),
        .path = path,
        .capacity_hint = bytes_needed(e)};
    status = open_one(e, e->set.states_tier, 2, env, &e->states_tier, error);
    if (status)
        return status;
    /* Pinned or not, the host computes with it in place. */
    if (e->device.space == ZDS_SPACE_HOST && !e->states_rest)
        e->states_tier->info.device = e->device;
    return e->planned ? ZDS_OK : check_states(e, error);
}

bool tiers_are_here(const zds_engine *e, const char *name)
{
    const tier *all[] = {e->tier, e->host_tier, e->states_tier, e->params_tier};
    bool here = strcmp(name, "host") == 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        here |= all[i] && all[i]->in_host && strcmp(all[i]->name, name) == 0;
    return here;
}

void tiers_close(zds_engine *e)
{
    tier_close(e->params_tier);
    tier_close(e->states_tier);
    tier_close(e->host_tier);
    tier_close(e->tier);
    for (size_t i = 0; i < sizeof e->tier_plugins / sizeof *e->tier_plugins; i++)
        options_destroy(e->tier_plugins[i].options);
}
