/* The rates of a run without the run: the schedule of a config, step by step. */
#include <math.h>
#include <string.h>

#include "engine/sample.h"
#include "host/error.h"
#include "zds/zds.h"

/* Why the schedule cannot be shown, at the key it is about. */
static zds_status refuse(zds_engine *e, zds_status status, const char *why, zds_error *error)
{
    const char *own = zds_config_string(e->config, "scheduler.type");
    return engine_refuse_in(e, status, own ? "scheduler.params" : "scheduler", why, error,
                            "scheduler %s: %s", e->sched_services.name, why);
}

static zds_status open_plugins(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    zds_status status = plugins_find(e, o, error);
    if (!status)
        status = plugins_open_optim(e, o, error);
    if (!status)
        status = groups_create(e, o, error);
    return status ? status : sample_open_sched(e, o, error);
}

static zds_status fill_points(zds_engine *e, const double *metrics, size_t count, char *points,
                              size_t stride, bool *moves_betas, zds_error *error)
{
    static const uint64_t betas = ZDS_SCHED_BETA1 | ZDS_SCHED_BETA2 | ZDS_SCHED_BETA3;
    uint32_t g = sample_hyper(e);
    for (size_t i = 0; i < count; i++) {
        zds_status status = update_hypers(e, (int64_t)i);
        if (status)
            return refuse(e, status, zds_engine_error(e), error);
        const zds_hyper *h = &e->hypers[g];
        const zds_schedule_point point = {h->lr, h->beta1, h->beta2, h->beta3};
        size_t known = stride < sizeof point ? stride : sizeof point;
        memset(points + i * stride, 0, stride);
        memcpy(points + i * stride, &point, known);
        if (!e->has_sched)
            continue;
        *moves_betas |= (e->sched_values[g].mask & betas) != 0;
        if (metrics && !isnan(metrics[i]))
            status = e->sched.observe(e->sched_self, metrics[i]);
        if (status)
            return refuse(e, status, services_error(&e->sched_services), error);
    }
    return ZDS_OK;
}

zds_status zds_schedule_points_sized(const zds_config *config, const zds_engine_options *options,
                                     const double *metrics, size_t count,
                                     zds_schedule_point *points, size_t stride, bool *moves_betas,
                                     zds_error *error)
{
    zds_engine_options o;
    zds_status status = engine_options(options, &o, error);
    if (status)
        return status;
    zds_engine *e = sample_create(config, &o);
    if (!e)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for a schedule");
    *moves_betas = false;
    status = open_plugins(e, &o, error);
    if (!status && e->has_sched && zds_observes(e) && !metrics && count > 1)
        status = refuse(e, ZDS_ERR_INVALID, "follows a metric, which must be given", error);
    if (!status && e->has_sched && !zds_observes(e) && metrics)
        status = refuse(e, ZDS_ERR_INVALID, "follows no metric", error);
    if (!status)
        status = fill_points(e, metrics, count, (char *)points, stride, moves_betas, error);
    if (status && problems_heard(&e->found)) {
        e->sample = false; /* now it is told */
        status = engine_tell(e, status, "", error);
    }
    zds_engine_destroy(e);
    return status;
}
