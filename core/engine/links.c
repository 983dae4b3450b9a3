/* The connections of an engine's ranks: which communication plugins there are, and what each rank
 * is told of the others before. */
#include <cjson/cJSON.h>
#include <stdlib.h>

#include "engine/internal.h"
#include "host/bootstrap.h"
#include "host/error.h"
#include "host/locate.h"

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

static zds_comm_env comm_env(const launch *l, zds_device device)
{
    return (zds_comm_env){.struct_size = sizeof(zds_comm_env),
                          .rank = l->rank,
                          .world_size = l->world_size,
                          .local_rank = l->local_rank,
                          .local_world_size = l->local_world_size,
                          .master_addr = l->master_addr,
                          .master_port = l->master_port,
                          .timeout_ms = l->timeout_ms,
                          .device = device};
}

/* The key that names it: a string stands for the section. */
static const char *comm_key(const zds_engine *e)
{
    return cJSON_IsObject(config_node(e->config, "zds.comm")) ? "zds.comm.type" : "zds.comm";
}

/* What the config says of it: its name, and the path of its options; NULL where it leaves them to
 * the program or to zds. */
static zds_status comm_of_config(zds_engine *e, const zds_engine_options *o, const char **name,
                                 const char **section, zds_error *error)
{
    static const char *const params = "zds.comm.params";
    bool has_params = cJSON_IsObject(config_node(e->config, params));
    *name = o->comm ? NULL : zds_config_string(e->config, "zds.comm.type");
    *section = *name && has_params ? params : NULL;
    if (has_params && !*name && !o->comm)
        return engine_refuse(e, ZDS_ERR_CONFIG, params, error,
                             "options of a communication plugin that is not named; write its name "
                             "as zds.comm.type");
    return ZDS_OK;
}

/* What its facts say of the engine's device, */
static zds_status check_device(const zds_plugin *plugin, zds_device device, zds_error *error)
{
    zds_comm_ops ops;
    plugin_ops(plugin, &ops, sizeof ops);
    return ops.spaces & ZDS_SPACE_BIT(device.space)
               ? ZDS_OK
               : error_set(error, ZDS_ERR_UNSUPPORTED, "%s does not move memory of this device",
                           plugin->name);
}

/* and of these ranks. */
static zds_status check_ranks(const zds_plugin *plugin, const zds_comm_env *env, zds_error *error)
{
    zds_comm_ops ops;
    plugin_ops(plugin, &ops, sizeof ops);
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
                              const zds_plugin **plugin, const char **section, zds_error *error)
{
    const char *name, *file;
    *plugin = NULL;
    zds_error found = ZDS_ERROR_INIT;
    zds_status told = comm_of_config(e, o, &name, section, error);
    if (told)
        return told;
    name = o->comm ? o->comm : name;
    if (env->device.space != e->device.space) { /* what is named is for the engine's device */
        name = NULL;
        *section = NULL;
    }
    if (name) {
        zds_status status = (o->comm ? registry_find : registry_find_of_config)(
            e->plugins, ZDS_KIND_COMM, name, NULL, plugin, &file, &found);
        if (!status)
            status = check_device(*plugin, env->device, &found);
        if (!status)
            status = check_ranks(*plugin, env, &found);
        if (status && !o->comm)
            return plugins_refuse_name(e, status, comm_key(e), &found, error);
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

zds_status links_meet(zds_engine *e, zds_error *error)
{
    char identity[LAUNCH_HOST];
    const zds_comm_env env = comm_env(&e->launch, e->device);
    e->bootstrap = bootstrap_open(&env);
    if (!e->bootstrap)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the ranks' first exchange");
    launch_host_identity(identity, sizeof identity);
    return locate_ranks(&e->launch, e->bootstrap, identity, error);
}

static zds_status open_link(zds_engine *e, const zds_engine_options *o, zds_device device,
                            comm_link *l, zds_error *error)
{
    zds_comm_env env = comm_env(&e->launch, device);
    const zds_plugin *plugin;
    const char *section;
    zds_status status = choose_comm(e, o, &env, &plugin, &section, error);
    if (status)
        return status;
    if (!plugin)
        return error_set(error, ZDS_ERR_NOT_FOUND,
                         "no communication plugin can connect %d ranks (%d of them on this node) "
                         "whose buffers are in space %d (zds/types.h); `zds-plugins --list --kind "
                         "comm` shows those there are",
                         env.world_size, env.local_world_size, device.space);
    plugin_ops(plugin, &l->ops, sizeof l->ops);
    services_init(&l->services, plugin->name, e->launch.rank, e->ledger, e->threads);
    env.bootstrap = bootstrap_offer(e->bootstrap);
    status = plugins_read_options(e, plugin, section, NULL, &l->options, error);
    if (!status &&
        (status = l->ops.init(&l->services.host, l->options, &env, &l->self)) != ZDS_OK) {
        l->self = NULL;
        error_set(error, status, "rank %d, comm plugin %s: %s", e->launch.rank, plugin->name,
                  services_error(&l->services));
    }
    return status;
}

/* What zds_engine_plan takes for a connection: what the plugin says of itself, or one of many
 * abilities where none suits. */
static zds_status plan_link(zds_engine *e, const zds_engine_options *o, zds_device device,
                            comm_link *l, zds_error *error)
{
    zds_comm_env env = comm_env(&e->launch, device);
    const zds_plugin *plugin;
    const char *section;
    zds_status status = choose_comm(e, o, &env, &plugin, &section, error);
    if (plugin) {
        plugin_ops(plugin, &l->ops, sizeof l->ops);
    } else {
        l->ops.flags = ZDS_COMM_FUSED | ZDS_COMM_NODE_SHARED | ZDS_COMM_COPIES;
        l->ops.reduce_dtypes =
            ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_F16) | ZDS_DTYPE_BIT(ZDS_BF16);
    }
    services_init(&l->services, "plan", e->launch.rank, e->ledger, e->threads);
    return status;
}

/* On whichever thread runs bodies. */
static void tick(void *arg)
{
    zds_engine *e = arg;
    comm_link *links[] = {&e->comm, &e->host_comm};
    for (int i = 0; i < 2; i++)
        if (links[i]->self && peers_need_moving(&links[i]->peers))
            peers_tick(&links[i]->peers);
}

static void fill_peers(zds_engine *e, comm_link *l, tier *t)
{
    l->peers = (peers){.ops = &l->ops,
                       .self = l->self,
                       .services = &l->services,
                       .failure = &e->failure,
                       .tier = t,
                       .rank = e->launch.rank,
                       .world_size = e->launch.world_size,
                       .one_node = e->launch.local_world_size == e->launch.world_size,
                       .node_rank = e->launch.local_rank,
                       .node_size = e->launch.local_world_size};
    peers_init(&l->peers);
}

/* What does not move by itself is moved between bodies of the pool, or by a thread. */
static zds_status let_move(zds_engine *e, comm_link *l, zds_error *error)
{
    if (!l->self || !peers_need_moving(&l->peers))
        return ZDS_OK;
    pool_tick_set(e->threads, tick, e);
    return e->set.progress_thread ? peers_move(&l->peers, error) : ZDS_OK;
}

static zds_status connect_ranks(zds_engine *e, const zds_engine_options *o, zds_device device,
                                comm_link *l, tier *t, zds_error *error)
{
    zds_status status =
        e->planned ? plan_link(e, o, device, l, error) : open_link(e, o, device, l, error);
    if (status)
        return status;
    fill_peers(e, l, t);
    return let_move(e, l, error);
}

/* The host's first, on which ranks are compared: those of unlike devices have no other in common.
 */
zds_status links_open(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    const zds_device host = {.space = ZDS_SPACE_HOST};
    bool two = e->device.space != ZDS_SPACE_HOST;
    comm_link *first = two ? &e->host_comm : &e->comm;
    zds_status status =
        connect_ranks(e, o, two ? host : e->device, first, two ? e->host_tier : e->tier, error);
    if (!status) {
        e->control = &first->peers;
        status = peers_open(e->control, error);
    }
    if (!status && !e->planned)
        status = agree_on_start(e, o, error);
    if (!status && two)
        status = connect_ranks(e, o, e->device, &e->comm, e->tier, error);
    if (!status && two) {
        e->control->other = &e->comm.peers;
        e->comm.peers.other = e->control;
    }
    if (!e->planned)
        bootstrap_finish(e->bootstrap);
    return status;
}

void links_abort(zds_engine *e, const char *why)
{
    const comm_link *links[] = {&e->comm, &e->host_comm};
    for (int i = 0; i < 2; i++)
        if (links[i]->self && e->launch.world_size > 1)
            links[i]->ops.abort(links[i]->self, why);
}

static void close_link(comm_link *l)
{
    peers_rest(&l->peers);
    peers_destroy(&l->peers);
    if (l->self)
        l->ops.finalize(l->self);
    services_destroy(&l->services);
    options_destroy(l->options);
}

void links_close(zds_engine *e)
{
    if (e->threads)
        pool_tick_set(e->threads, NULL, NULL);
    if (e->control)
        peers_close(e->control);
    close_link(&e->comm);
    close_link(&e->host_comm);
    bootstrap_close(e->bootstrap);
}

zds_status links_check(zds_engine *e, const zds_engine_options *o, const char **key,
                       zds_error *error)
{
    const char *name, *section, *file;
    const zds_plugin *plugin;
    void *options = NULL;
    *key = comm_key(e);
    zds_status status = comm_of_config(e, o, &name, &section, error);
    if (status || !name)
        return status;
    status = registry_find_of_config(e->plugins, ZDS_KIND_COMM, name, NULL, &plugin, &file, error);
    if (!status)
        status = check_device(plugin, e->device, error);
    if (!status)
        status = plugins_read_options(e, plugin, section, NULL, &options, error);
    options_destroy(options);
    return status;
}
