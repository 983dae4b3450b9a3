/* What an engine would refuse, told without one: its beginning is gone through with a small model
 * of every kind of parameter, as far as the config decides how it ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"
#include "config/plugins.h"
#include "engine/internal.h"
#include "host/error.h"

typedef struct refusal {
    int32_t severity;
    char *path, *message;
} refusal;

typedef struct refusals {
    const zds_config *config;
    refusal *list;
    size_t count, space;
    size_t heard; /* of all, kept or not */
    bool failed;  /* out of ledger */
} refusals;

static void add(refusals *r, int32_t severity, const char *path, const char *message)
{
    if (r->count == PROBLEMS_MAX)
        return;
    if (r->count == r->space) {
        size_t space = r->space ? 2 * r->space : 8;
        refusal *grown = realloc(r->list, space * sizeof *grown);
        r->failed |= !grown;
        if (!grown)
            return;
        r->list = grown;
        r->space = space;
    }
    refusal *one = &r->list[r->count++];
    *one = (refusal){severity, problem_printable(path), problem_printable(message)};
    r->failed |= !one->path || !one->message;
}

/* True if the config's own problems have this one, or one of a section around it. */
static bool is_told(refusals *r, const char *path)
{
    char *outer = strdup(path), *end = outer;
    bool told = false;
    r->failed |= !outer;
    while (end && !told) {
        told = config_has_error_at(r->config, outer);
        end = strrchr(outer, '.');
        if (end)
            *end = '\0';
    }
    free(outer);
    return told;
}

static void keep(void *user, const char *path, const char *message)
{
    refusals *r = user;
    r->heard++;
    if (!is_told(r, path))
        add(r, ZDS_PROBLEM_ERROR, path, message);
}

/* Schedules warn of optimizers that they cannot move all of. */
static void keep_warning(void *user, const char *message)
{
    refusals *r = user;
    char path[256];
    char *text = text_format("%s: %s", zds_config_combination(r->config), message);
    problem_path_in(r->config, "scheduler.params", message, path, sizeof path);
    r->failed |= !text;
    if (text)
        add(r, ZDS_PROBLEM_WARNING, strcmp(path, "scheduler.params") == 0 ? "scheduler" : path,
            text);
    free(text);
}

static void forget_after(refusals *r, size_t count)
{
    while (r->count > count) {
        r->count--;
        free(r->list[r->count].path);
        free(r->list[r->count].message);
    }
}

/* Something of each kind, after a matrix for each of zds.param_groups. NULL: no memory. */
static zds_model *sample_model(const zds_config *config)
{
    static const struct {
        const char *name;
        uint32_t ndim;
        int32_t role;
    } kinds[] = {{"embedding", 2, ZDS_ROLE_EMBEDDING},
                 {"matrix", 2, ZDS_ROLE_MATRIX},
                 {"bias", 1, ZDS_ROLE_BIAS},
                 {"norm", 1, ZDS_ROLE_NORM},
                 {"head", 2, ZDS_ROLE_HEAD}};
    static const int64_t shape[] = {64, 64};
    size_t groups = (size_t)cJSON_GetArraySize(zds_config_node(config, "zds.param_groups"));
    zds_model *model = zds_model_create();
    uint32_t index;
    zds_status status = model ? zds_model_add_module(model, "sample", &index) : ZDS_ERR_MEMORY;
    for (size_t i = 0; !status && i < groups + sizeof kinds / sizeof *kinds; i++) {
        size_t kind = i < groups ? 1 : i - groups;
        char numbered[48];
        snprintf(numbered, sizeof numbered, "zds.param_groups.%zu", i);
        const zds_param_desc desc = {.struct_size = sizeof desc,
                                     .name = i < groups ? numbered : kinds[kind].name,
                                     .shape = shape,
                                     .ndim = kinds[kind].ndim,
                                     .role = kinds[kind].role};
        status = zds_model_add_param(model, 0, &desc, &index);
    }
    if (!status)
        return model;
    zds_model_destroy(model);
    return NULL;
}

/* After a failure that was not refused at a key: says it at `path`. Only what is not the config's
 * fault stays a failure. */
static zds_status settle(refusals *r, size_t heard, zds_status status, const char *path,
                         zds_error *error)
{
    if (!status || status == ZDS_ERR_MEMORY)
        return status;
    if (r->heard == heard)
        keep(r, path, error->text ? error->text : zds_status_name(status));
    zds_error_clear(error);
    return r->failed ? ZDS_ERR_MEMORY : ZDS_OK;
}

/* zds.param_groups may leave no parameter for a group of others, which this model has. */
static void drop_others(zds_engine *e)
{
    e->declared_count--;
    while (e->hyper_count && e->declared[e->hyper_count - 1] == e->declared_count)
        e->hyper_count--;
    services_destroy(&e->sched_services);
    options_destroy(e->sched_options);
    e->sched_options = NULL;
}

static zds_status check_schedule(zds_engine *e, const zds_engine_options *o, refusals *r,
                                 zds_error *error)
{
    size_t heard = r->heard, before = r->count;
    zds_status status = plugins_open_sched(e, o, error);
    if (status && e->declared_count > 1) {
        size_t told = r->count;
        drop_others(e);
        zds_error again = ZDS_ERROR_INIT;
        if (plugins_open_sched(e, o, &again) == ZDS_OK) {
            zds_error_clear(error);
            status = ZDS_OK;
        }
        zds_error_clear(&again);
        forget_after(r, status ? told : before);
    }
    if (!status && (status = update_hypers(e, 0)) != ZDS_OK)
        error_set(error, status, "%s", zds_engine_error(e));
    if (!status)
        status = check_rates(e, error);
    return settle(r, heard, status, "scheduler", error);
}

static zds_status check_plugins(zds_engine *e, const zds_engine_options *o, refusals *r,
                                zds_error *error)
{
    const char *comm = zds_config_string(e->config, "zds.comm"), *file;
    const zds_plugin *plugin;
    size_t heard = r->heard;
    zds_status status = ZDS_OK;
    if (comm && !o->comm)
        status = registry_find(e->plugins, ZDS_KIND_COMM, comm, NULL, &plugin, &file, error);
    status = settle(r, heard, status, "zds.comm", error);
    if (status)
        return status;
    heard = r->heard;
    status = plugins_open_optim(e, o, error);
    if (!status)
        status = groups_create(e, o, error);
    if (status)
        return settle(r, heard, status, "optimizer", error);
    return check_schedule(e, o, r, error);
}

static zds_status check_all(zds_engine *e, const zds_engine_options *o, refusals *r,
                            zds_error *error)
{
    int32_t ranks = (int32_t)e->config->world_size;
    e->place = (launch){.world_size = ranks, .local_world_size = ranks};
    settings_fill(&e->set, e->config, ranks, keep, r);
    zds_status status = pool_create(1, 1, &e->threads, error);
    if (status)
        return status;
    e->model = sample_model(e->config);
    if (!e->model)
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    char *path = config_plugin_path(e->config);
    size_t heard = r->heard;
    status = registry_create(path, o->plugins, &e->plugins, error);
    free(path);
    return status ? settle(r, heard, status, "zds.plugin_path", error)
                  : check_plugins(e, o, r, error);
}

/* ZDS_ERR_CONFIG if there are errors. */
static zds_status show(const refusals *r, void (*visit)(void *user, const zds_problem *problem),
                       void *user)
{
    zds_status status = ZDS_OK;
    for (size_t i = 0; i < r->count; i++) {
        zds_problem p = {.severity = r->list[i].severity,
                         .check = ZDS_CHECK_ZDS,
                         .path = r->list[i].path,
                         .message = r->list[i].message};
        problem_locate(r->config, &p);
        visit(user, &p);
        if (p.severity == ZDS_PROBLEM_ERROR)
            status = ZDS_ERR_CONFIG;
    }
    return status;
}

zds_status zds_engine_check(const zds_config *config, const zds_engine_options *options,
                            void (*visit)(void *user, const zds_problem *problem), void *user,
                            zds_error *error)
{
    if (!config || !visit)
        return error_set(error, ZDS_ERR_INVALID,
                         "zds_engine_check: config and visit must be given");
    zds_engine_options o = engine_options(options);
    zds_engine *e = engine_empty(config, &o);
    if (!e)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for a check");
    refusals r = {.config = config};
    zds_error own = ZDS_ERROR_INIT;
    e->planned = true;
    e->refused = keep;
    e->warned = keep_warning;
    e->refused_user = &r;
    zds_status status = check_all(e, &o, &r, &own);
    zds_engine_destroy(e);
    if (status || r.failed)
        status = error_set(error, ZDS_ERR_MEMORY, "no memory for a check");
    else
        status = show(&r, visit, user);
    if (status == ZDS_ERR_CONFIG)
        error_set(error, status, "an engine would refuse the config");
    zds_error_clear(&own);
    forget_after(&r, 0);
    free(r.list);
    return status;
}
