/* What an engine would refuse, told without one: the beginning of a sample is gone through, as far
 * as the config decides how it ends. */
#include <string.h>

#include "engine/sample.h"
#include "host/error.h"

static size_t error_count(const zds_engine *e)
{
    size_t count = e->found.dropped;
    for (size_t i = 0; i < e->found.count; i++)
        count += e->found.list[i].shown.severity == ZDS_PROBLEM_ERROR;
    return count;
}

/* After a failure that was not refused at a key since there were `before` errors: says it at
 * `path`. Only what is not the config's fault stays a failure. */
static zds_status settle(zds_engine *e, size_t before, zds_status status, const char *path,
                         zds_error *error)
{
    if (!status || status == ZDS_ERR_MEMORY)
        return status;
    if (error_count(e) == before)
        engine_note(e, path, error->text ? error->text : zds_status_name(status));
    zds_error_clear(error);
    return e->found.failed ? ZDS_ERR_MEMORY : ZDS_OK;
}

static zds_status check_schedule(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    size_t before = error_count(e);
    zds_status status = sample_open_sched(e, o, error);
    if (!status && (status = update_hypers(e, 0)) != ZDS_OK)
        error_set(error, status, "%s", zds_engine_error(e));
    if (!status)
        status = check_rates(e, error);
    return settle(e, before, status, "scheduler", error);
}

static zds_status check_plugins(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    const char *comm;
    size_t before = error_count(e);
    zds_status status = settle(e, before, tiers_open(e, o, error), "zds.tiers", error);
    if (status)
        return status;
    before = error_count(e);
    status = links_check(e, o, &comm, error);
    status = settle(e, before, status, comm, error);
    if (status)
        return status;
    before = error_count(e);
    status = plugins_open_optim(e, o, error);
    if (!status)
        status = groups_create(e, o, error);
    if (status)
        return settle(e, before, status, "optimizer", error);
    return check_schedule(e, o, error);
}

/* ZDS_ERR_CONFIG if there are errors. */
static zds_status show(const zds_engine *e, void (*visit)(void *user, const zds_problem *problem),
                       void *user)
{
    zds_status status = ZDS_OK;
    for (size_t i = 0; i < e->found.count; i++) {
        const zds_problem *p = &e->found.list[i].shown;
        bool error = p->severity == ZDS_PROBLEM_ERROR;
        if (error && config_has_error_around(e->config, p->path))
            continue;
        visit(user, p);
        if (error)
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
    zds_engine_options o;
    zds_status status = engine_options(options, &o, error);
    if (status)
        return status;
    zds_engine *e = sample_create(config, &o);
    if (!e)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for a check");
    zds_error own = ZDS_ERROR_INIT;
    e->warned = &e->found;
    e->set = settings_of(config, e->launch.world_size, &e->found);
    size_t before = error_count(e);
    status = plugins_find(e, &o, &own);
    status =
        status ? settle(e, before, status, "zds.plugin_path", &own) : check_plugins(e, &o, &own);
    if (status || e->found.failed)
        status = error_set(error, ZDS_ERR_MEMORY, "no memory for a check");
    else
        status = show(e, visit, user);
    if (status == ZDS_ERR_CONFIG)
        error_set(error, status, "an engine would refuse the config");
    zds_engine_destroy(e);
    zds_error_clear(&own);
    return status;
}
