/* Opens the memory tiers of an engine: where parameters are computed, the host's where that is
 * another, and where masters and states rest. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "engine/internal.h"
#include "host/error.h"

static const char *const spaces[ZDS_SPACE_COUNT] = {[ZDS_SPACE_HOST] = "host",
                                                    [ZDS_SPACE_CUDA] = "cuda",
                                                    [ZDS_SPACE_HIP] = "hip",
                                                    [ZDS_SPACE_SYCL] = "sycl",
                                                    [ZDS_SPACE_TEST] = "test"};

/* The device that the program or the config asks for. */
static zds_status read_device(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    const char *name = zds_config_string(e->config, "zds.device");
    e->device = o->device;
    if (e->device.space < 0 || e->device.space >= ZDS_SPACE_COUNT || !spaces[e->device.space])
        return error_set(error, ZDS_ERR_INVALID,
                         "options.device: space %d is none in which parameters are computed",
                         e->device.space);
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

/* The plugin behind a tier's name: what zds.tiers says, else zds's own for the host, or whichever
 * holds the memory of that space. */
static zds_status find_plugin(zds_engine *e, const char *key, zds_space space,
                              const zds_plugin **plugin, zds_error *error)
{
    const cJSON *type = config_node(e->config, key);
    zds_error found = ZDS_ERROR_INIT;
    const char *name = cJSON_IsString(type) ? type->valuestring : "cpu", *file;
    if (!cJSON_IsString(type) && space != ZDS_SPACE_HOST) {
        search s = {.space = space};
        zds_status status =
            registry_each(e->plugins, ZDS_KIND_OFFLOAD, NULL, is_of_space, &s, error);
        *plugin = s.found;
        if (!status && !s.found)
            status = engine_refuse(e, ZDS_ERR_NOT_FOUND, "zds.device", error,
                                   "there is no memory tier for %s; `zds-plugins --list --kind "
                                   "offload` shows those there are, and %s names one by its path",
                                   spaces[space], key);
        return status;
    }
    zds_status status =
        registry_find(e->plugins, ZDS_KIND_OFFLOAD, name, NULL, plugin, &file, &found);
    return status ? plugins_refuse_name(e, status, key, &found, error) : ZDS_OK;
}

/* `name`: as zds.tiers and the memory report have it. */
static zds_status open_one(zds_engine *e, const char *name, zds_device device, tier **out,
                           void **options, zds_error *error)
{
    char type[64], params[64];
    const zds_plugin *plugin;
    snprintf(type, sizeof type, "zds.tiers.%s.type", name);
    snprintf(params, sizeof params, "zds.tiers.%s.params", name);
    if (e->planned)
        return tier_plan(name, e->ledger, e->threads, out, error);
    bool has_params = cJSON_IsObject(config_node(e->config, params));
    zds_status status = find_plugin(e, type, device.space, &plugin, error);
    if (!status)
        status = plugins_read_options(e, plugin, has_params ? params : NULL, NULL, options, error);
    const zds_offload_env env = {.struct_size = sizeof env,
                                 .rank = e->launch.rank,
                                 .local_rank = e->launch.local_rank,
                                 .device = device.space == ZDS_SPACE_HOST ? -1 : device.ordinal};
    if (!status)
        status = tier_open(name, plugin, *options, &env, e->ledger, e->threads, out, error);
    if (status)
        return status;
    if ((*out)->ops.space == device.space && (*out)->ops.flags & ZDS_OFFLOAD_DIRECT)
        return ZDS_OK;
    return engine_refuse(e, ZDS_ERR_UNSUPPORTED, type, error,
                         "%s is not memory that the optimizer of %s parameters can use in place, "
                         "and streaming what rests elsewhere is not implemented",
                         plugin->name, spaces[device.space]);
}

zds_status tiers_open(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    const zds_device host = {.space = ZDS_SPACE_HOST};
    zds_status status = read_device(e, o, error);
    if (!status)
        status =
            open_one(e, spaces[e->device.space], e->device, &e->tier, &e->tier_options[0], error);
    if (status)
        return status;
    bool elsewhere = e->device.space != ZDS_SPACE_HOST;
    if (!e->planned)
        e->device = e->tier->info.device;
    if (elsewhere)
        status = open_one(e, "host", host, &e->host_tier, &e->tier_options[1], error);
    /* Parameters of a host engine live where offload_optimizer's cpu is: nothing is copied, but
     * the report tells the offloaded part from the rest. From a device they are streamed. */
    if (!status && e->set.states_offloaded)
        status = open_one(e, "cpu", host, &e->states_tier, &e->tier_options[2], error);
    return status;
}

void tiers_close(zds_engine *e)
{
    tier_close(e->states_tier);
    tier_close(e->host_tier);
    tier_close(e->tier);
    for (size_t i = 0; i < sizeof e->tier_options / sizeof *e->tier_options; i++)
        options_destroy(e->tier_options[i]);
}
