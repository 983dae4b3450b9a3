/* Opens the memory tiers of an engine: where parameters are computed, and where masters and states
 * rest. */
#include "engine/internal.h"
#include "host/error.h"

static zds_status open_one(zds_engine *e, const char *name, const char *plugin_name, tier **out,
                           zds_error *error)
{
    const zds_plugin *plugin;
    const char *file;
    if (e->planned)
        return tier_plan(name, e->ledger, e->threads, out, error);
    zds_status status =
        registry_find(e->plugins, ZDS_KIND_OFFLOAD, plugin_name, NULL, &plugin, &file, error);
    const zds_offload_env env = {.struct_size = sizeof env,
                                 .rank = e->place.rank,
                                 .local_rank = e->place.local_rank,
                                 .device = -1};
    return status ? status : tier_open(name, plugin, NULL, &env, e->ledger, e->threads, out, error);
}

/* Parameters of a host engine live where offload_optimizer's cpu is: nothing is copied, but the
 * report tells the offloaded part from the rest. */
zds_status tiers_open(zds_engine *e, zds_error *error)
{
    zds_status status = open_one(e, "host", "cpu", &e->tier, error);
    if (!status && e->set.states_offloaded)
        status = open_one(e, "cpu", "cpu", &e->states_tier, error);
    return status;
}

void tiers_close(zds_engine *e)
{
    tier_close(e->states_tier);
    tier_close(e->tier);
}
