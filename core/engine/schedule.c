/* The rates of a run without the run: the schedule of a config, step by step. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"
#include "config/plugins.h"
#include "engine/chosen.h"
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

/* All that is wrong, a line each. */
typedef struct found {
    const zds_config *config;
    const char *section; /* "optimizer.params"; "optimizer" of the program's */
    char *text;
} found;

static void note_path(void *user, const char *path, const char *message)
{
    found *f = user;
    char *line = problem_line(f->config, path, message);
    if (line)
        text_append(&f->text, "\n", "%s", line);
    free(line);
}

static void note(void *user, const char *key, const char *message)
{
    const found *f = user;
    char path[256];
    snprintf(path, sizeof path, "%s.%.128s", f->section, key);
    note_path(user, path, message);
}

static zds_status fail_with(found *f, zds_status status, zds_error *error)
{
    status = f->text ? error_set(error, status, "%s", f->text)
                     : error_set(error, ZDS_ERR_MEMORY, "out of memory");
    free(f->text);
    return status;
}

/* The kind's section where the config names the plugin; `text`: JSON of the program, where it does.
 */
static zds_status open_plugin(const zds_config *config, registry *plugins, int32_t kind,
                              const char *name, bool in_config, const char *text, opened *out,
                              zds_error *error)
{
    const char *section = kind == ZDS_KIND_OPTIM ? "optimizer" : "scheduler", *file;
    char path[32];
    zds_error missing = ZDS_ERROR_INIT;
    found f = {.config = config, .section = section};
    zds_status status = registry_find(plugins, kind, name, NULL, &out->plugin, &file, &missing);
    if (status) {
        snprintf(path, sizeof path, "%s%s", section, in_config ? ".type" : "");
        note_path(&f, path, missing.text ? missing.text : "there is no such plugin");
        zds_error_clear(&missing);
        return fail_with(&f, status, error);
    }
    snprintf(path, sizeof path, "%s%s", section, in_config ? ".params" : "");
    f.section = path;
    cJSON *parsed = text && !in_config ? cJSON_Parse(text) : NULL;
    if (text && !in_config && !parsed)
        return error_set(error, ZDS_ERR_INVALID, "error: options of %s: not JSON", name);
    const cJSON *params = in_config ? zds_config_node(config, path) : parsed;
    out->options = options_create(out->plugin, cJSON_IsNull(params) ? NULL : params, note, &f);
    cJSON_Delete(parsed);
    if (!out->options)
        return fail_with(&f, ZDS_ERR_CONFIG, error);
    free(f.text);
    return ZDS_OK;
}

/* What plugins are given where there is no engine. */
typedef struct surroundings {
    services offered;
    pool *alone;
    ledger *ledger;
} surroundings;

static void surroundings_destroy(surroundings *s)
{
    services_destroy(&s->offered);
    ledger_destroy(s->ledger);
    pool_destroy(s->alone);
    *s = (surroundings){0};
}

static zds_status surroundings_create(surroundings *s, const zds_plugin *plugin, zds_error *error)
{
    zds_status status = pool_create(1, 1, &s->alone, error);
    s->ledger = ledger_create();
    if (!status && !s->ledger)
        status = error_set(error, ZDS_ERR_MEMORY, "out of memory");
    if (status)
        surroundings_destroy(s);
    else
        services_init(&s->offered, plugin->name, 0, s->ledger, s->alone);
    return status;
}

/* Groups as an engine would number them: those of zds.param_groups, then the other parameters. */
typedef struct rates {
    size_t count;
    zds_hyper *base; /* [count] */
    uint32_t *sets;  /* [count]: ZDS_SCHED_ bits of what they say themselves */
    uint32_t *number;
    zds_sched_value *values;
    double default_lr;
} rates;

/* An optimizer may have its own idea of a parameter's hyperparameters: here, of a matrix'. What it
 * refuses is for the engine to tell. */
static zds_status describe_rates(const opened *optim, rates *r, zds_error *error)
{
    static const int64_t shape[] = {64, 64};
    zds_optim_ops ops;
    surroundings around = {0};
    void *self = NULL;
    zds_status status = surroundings_create(&around, optim->plugin, error);
    if (status)
        return status;
    plugin_ops(optim->plugin, &ops, sizeof ops);
    const zds_optim_env env = {.struct_size = sizeof env,
                               .space = ZDS_SPACE_HOST,
                               .world_size = 1,
                               .trainable_params = r->count,
                               .trainable_elements = r->count * 64 * 64};
    const bool refused =
        ops.create && ops.create(&around.offered.host, optim->options, &env, &self) != ZDS_OK;
    for (size_t k = 0; k < r->count && !refused; k++) {
        const zds_param param = {.struct_size = sizeof param,
                                 .index = (uint32_t)k,
                                 .role = ZDS_ROLE_MATRIX,
                                 .name = "matrix",
                                 .ndim = 2,
                                 .group = (uint32_t)k,
                                 .shape = shape,
                                 .numel = 64 * 64,
                                 .width_mult = 1,
                                 .fan_out_mult = 1,
                                 .group_sets = r->sets[k]};
        zds_hyper hyper = r->base[k];
        zds_param_needs needs = {.struct_size = sizeof needs, .hyper = &hyper};
        if (ops.describe(self, &param, &needs) == ZDS_OK)
            r->base[k] = hyper;
    }
    if (ops.destroy && !refused)
        ops.destroy(self);
    surroundings_destroy(&around);
    return ZDS_OK;
}

static zds_status rates_create(const zds_config *config, const opened *optim, rates *r,
                               zds_error *error)
{
    const cJSON *group, *groups = zds_config_node(config, "zds.param_groups");
    size_t named = (size_t)cJSON_GetArraySize(groups), i = 0;
    found f = {.config = config};
    *r = (rates){.count = named + 1,
                 .base = calloc(named + 1, sizeof *r->base),
                 .sets = calloc(named + 1, sizeof *r->sets),
                 .number = calloc(named + 1, sizeof *r->number),
                 .values = calloc(named + 1, sizeof *r->values)};
    if (!r->base || !r->sets || !r->number || !r->values)
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    for (size_t k = 0; k <= named; k++) {
        r->number[k] = (uint32_t)k;
        r->base[k] = options_hyper(optim->plugin, optim->options);
    }
    r->default_lr = r->base[named].lr;
    size_t wrong = 0;
    cJSON_ArrayForEach(group, groups)
    {
        zds_hyper own = CHOSEN_NOTHING;
        wrong += chosen_hyper(group, i, optim->plugin, &own, note_path, &f);
        r->sets[i] = chosen_override(&r->base[i], &own);
        i++;
    }
    return wrong ? fail_with(&f, ZDS_ERR_CONFIG, error) : describe_rates(optim, r, error);
}

static void rates_destroy(rates *r)
{
    free(r->base);
    free(r->sets);
    free(r->number);
    free(r->values);
}

/* An instance of the schedule, and what it is given. */
typedef struct instance {
    zds_sched_ops ops;
    surroundings around;
    void *self;
} instance;

/* What a schedule refuses or fails of, at the key it is about. */
static zds_status refuse(const zds_config *config, const opened *sched, zds_status status,
                         const char *why, zds_error *error)
{
    char path[256], *text = text_format("scheduler %s: %s", sched->plugin->name, why);
    found f = {.config = config};
    bool in_config = zds_config_string(config, "scheduler.type");
    problem_path_in(config, in_config ? "scheduler.params" : "scheduler", why, path, sizeof path);
    if (text)
        note_path(&f, path, text);
    free(text);
    return fail_with(&f, status, error);
}

static zds_status instance_create(instance *in, const zds_config *config, const opened *sched,
                                  rates *r, const zds_engine_options *o, zds_error *error)
{
    zds_status status = surroundings_create(&in->around, sched->plugin, error);
    if (status)
        return status;
    plugin_ops(sched->plugin, &in->ops, sizeof in->ops);
    /* Where zds.param_groups take every parameter, there is no group of others, and lists of one
     * value a group are shorter by one. */
    for (size_t least = r->count > 1 ? r->count - 1 : 1; r->count >= least; r->count--) {
        zds_sched_env env = {.struct_size = sizeof env,
                             .group_count = r->count,
                             .hyper_stride = sizeof *r->base,
                             .base = r->base,
                             .total_steps = o->total_steps > 0 ? o->total_steps : -1,
                             .warmup_steps =
                                 o->warmup_steps > 0 || o->total_steps > 0 ? o->warmup_steps : -1,
                             .declared = r->number,
                             .declared_count = r->count,
                             .default_lr = r->default_lr};
        status = in->ops.create(&in->around.offered.host, sched->options, &env, &in->self);
        if (!status)
            return ZDS_OK;
    }
    in->self = NULL;
    return refuse(config, sched, status, services_error(&in->around.offered), error);
}

static void instance_destroy(instance *in)
{
    if (in->self)
        in->ops.destroy(in->self);
    surroundings_destroy(&in->around);
}

/* The last group's values: those of parameters that no group of zds.param_groups takes. */
static zds_status fill_points(instance *in, const rates *r, const double *metrics, size_t count,
                              zds_schedule_point *points, bool *moves_betas, char **fault)
{
    const zds_hyper *base = &r->base[r->count - 1];
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && i < count; i++) {
        memset(r->values, 0, r->count * sizeof *r->values);
        for (size_t g = 0; g < r->count; g++)
            r->values[g].struct_size = sizeof *r->values;
        status = in->ops.at(in->self, (int64_t)i, r->values, sizeof *r->values);
        *fault = status ? NULL : schedule_fault(r->values, r->base, r->count);
        if (*fault) {
            text_append(fault, "", " after %zu steps", i);
            return ZDS_ERR_PLUGIN;
        }
        const zds_sched_value *v = &r->values[r->count - 1];
        points[i] = (zds_schedule_point){
            v->mask & ZDS_SCHED_LR ? v->hyper.lr : base->lr,
            v->mask & ZDS_SCHED_BETA1 ? v->hyper.beta1 : base->beta1,
            v->mask & ZDS_SCHED_BETA2 ? v->hyper.beta2 : base->beta2,
        };
        *moves_betas |= (v->mask & (ZDS_SCHED_BETA1 | ZDS_SCHED_BETA2)) != 0;
        if (!status && metrics && !isnan(metrics[i]))
            status = in->ops.observe(in->self, metrics[i]);
    }
    return status;
}

static zds_status run_schedule(const zds_config *config, const opened *sched, rates *r,
                               const zds_engine_options *o, const double *metrics, size_t count,
                               zds_schedule_point *points, bool *moves_betas, zds_error *error)
{
    instance in = {0};
    zds_status status = instance_create(&in, config, sched, r, o, error);
    bool missing = in.ops.observe && !metrics && count > 1;
    if (!status && (missing || (metrics && !in.ops.observe))) {
        status =
            refuse(config, sched, ZDS_ERR_INVALID,
                   metrics ? "follows no metric" : "follows a metric, which must be given", error);
    } else if (!status) {
        char *fault = NULL;
        status = fill_points(&in, r, metrics, count, points, moves_betas, &fault);
        if (status)
            refuse(config, sched, status, fault ? fault : services_error(&in.around.offered),
                   error);
        free(fault);
    }
    instance_destroy(&in);
    return status;
}

zds_status zds_schedule_points(const zds_config *config, const zds_engine_options *options,
                               const double *metrics, size_t count, zds_schedule_point *points,
                               bool *moves_betas, zds_error *error)
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
        status = error_set(error, ZDS_ERR_CONFIG, "error: no optimizer, so no rate to start from");
    if (!status)
        status = open_plugin(config, plugins, ZDS_KIND_OPTIM, name, own != NULL,
                             options->optimizer_params, &optim, error);
    if (!status && schedule)
        status = open_plugin(config, plugins, ZDS_KIND_SCHED, schedule, own_schedule != NULL,
                             options->scheduler_params, &sched, error);
    rates r = {0};
    if (!status)
        status = rates_create(config, &optim, &r, error);
    if (!status && schedule) {
        status =
            run_schedule(config, &sched, &r, options, metrics, count, points, moves_betas, error);
    } else if (!status) {
        const zds_hyper *base = &r.base[r.count - 1];
        for (size_t i = 0; i < count; i++)
            points[i] = (zds_schedule_point){base->lr, base->beta1, base->beta2};
    }
    rates_destroy(&r);
    options_destroy(optim.options);
    options_destroy(sched.options);
    registry_destroy(plugins);
    free(path);
    return status;
}
