/* The rates of a run without the run: the schedule of a config, step by step. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/plugins.h"
#include "engine/services.h"
#include "host/error.h"
#include "plugin/options.h"
#include "plugin/registry.h"
#include "zds/zds.h"

/* A plugin with its options filled in. */
typedef struct opened {
    const zds_plugin *plugin;
    void *options;
} opened;

typedef struct first_problem {
    const char *what, *name;
    zds_error *error;
    bool any;
} first_problem;

static void note(void *user, const char *key, const char *message)
{
    first_problem *p = user;
    if (!p->any)
        error_set(p->error, ZDS_ERR_CONFIG, "%s %s: %s: %s", p->what, p->name, key, message);
    p->any = true;
}

/* `params`: the config's section, or NULL with `text`, JSON of the program. */
static zds_status open_plugin(registry *plugins, int32_t kind, const char *name,
                              const cJSON *params, const char *text, opened *out, zds_error *error)
{
    const char *file;
    zds_status status = registry_find(plugins, kind, name, NULL, &out->plugin, &file, error);
    if (status)
        return status;
    first_problem p = {kind == ZDS_KIND_OPTIM ? "optimizer" : "scheduler", name, error, false};
    cJSON *parsed = text ? cJSON_Parse(text) : NULL;
    if (text && !parsed)
        return error_set(error, ZDS_ERR_INVALID, "options of %s: not JSON", name);
    out->options = options_create(out->plugin, params ? params : parsed, note, &p);
    cJSON_Delete(parsed);
    if (out->options)
        return ZDS_OK;
    return p.any ? ZDS_ERR_CONFIG : error_set(error, ZDS_ERR_MEMORY, "out of memory");
}

static zds_status fill_points(const opened *sched, const zds_hyper *base,
                              const zds_engine_options *o, size_t count, zds_schedule_point *points,
                              bool *moves_betas, zds_error *error)
{
    zds_sched_ops ops;
    services offered;
    void *self = NULL;
    zds_sched_env env = {.struct_size = sizeof env,
                         .group_count = 1,
                         .hyper_stride = sizeof *base,
                         .base = base,
                         .total_steps = o->total_steps > 0 ? o->total_steps : -1,
                         .warmup_steps =
                             o->warmup_steps > 0 || o->total_steps > 0 ? o->warmup_steps : -1};
    plugin_ops(sched->plugin, &ops, sizeof ops);
    pool *alone = NULL;
    zds_status status = pool_create(1, 1, &alone, error);
    if (status)
        return status;
    memory *ledger = memory_create();
    if (!ledger) {
        pool_destroy(alone);
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    }
    services_init(&offered, sched->plugin->name, 0, ledger, alone);
    status = ops.create(&offered.host, sched->options, &env, &self);
    if (status)
        self = NULL;
    for (size_t i = 0; status == ZDS_OK && i < count; i++) {
        zds_sched_value v = {.struct_size = sizeof v};
        status = ops.at(self, (int64_t)i, &v, sizeof v);
        points[i] = (zds_schedule_point){
            v.mask & ZDS_SCHED_LR ? v.hyper.lr : base->lr,
            v.mask & ZDS_SCHED_BETA1 ? v.hyper.beta1 : base->beta1,
            v.mask & ZDS_SCHED_BETA2 ? v.hyper.beta2 : base->beta2,
        };
        *moves_betas |= (v.mask & (ZDS_SCHED_BETA1 | ZDS_SCHED_BETA2)) != 0;
    }
    if (status != ZDS_OK)
        error_set(error, status, "scheduler %s: %s", sched->plugin->name, services_error(&offered));
    if (self)
        ops.destroy(self);
    services_destroy(&offered);
    memory_destroy(ledger);
    pool_destroy(alone);
    return status;
}

zds_status zds_schedule_points(const zds_config *config, const zds_engine_options *options,
                               size_t count, zds_schedule_point *points, bool *moves_betas,
                               zds_error *error)
{
    const zds_engine_options none = {.total_steps = -1, .warmup_steps = -1};
    if (!options)
        options = &none;
    const char *own = zds_config_string(config, "optimizer.type"),
               *name = own ? own : options->optimizer,
               *own_schedule = zds_config_string(config, "scheduler.type"),
               *schedule = own_schedule ? own_schedule : options->scheduler;
    opened optim = {0}, sched = {0};
    registry *plugins = NULL;
    char *path = config_plugin_path(config);
    zds_status status = registry_create(path, options->plugins, &plugins, error);
    *moves_betas = false;
    if (!status && !name)
        status = error_set(error, ZDS_ERR_CONFIG, "no optimizer, so no rate to start from");
    if (!status)
        status = open_plugin(plugins, ZDS_KIND_OPTIM, name,
                             own ? zds_config_node(config, "optimizer.params") : NULL,
                             own ? NULL : options->optimizer_params, &optim, error);
    if (!status && schedule)
        status = open_plugin(plugins, ZDS_KIND_SCHED, schedule,
                             own_schedule ? zds_config_node(config, "scheduler.params") : NULL,
                             own_schedule ? NULL : options->scheduler_params, &sched, error);
    if (!status) {
        zds_hyper base = options_hyper(optim.plugin, optim.options);
        for (size_t i = 0; i < count; i++)
            points[i] = (zds_schedule_point){base.lr, base.beta1, base.beta2};
        if (schedule)
            status = fill_points(&sched, &base, options, count, points, moves_betas, error);
    }
    options_destroy(optim.options);
    options_destroy(sched.options);
    registry_destroy(plugins);
    free(path);
    return status;
}
