/* Where a run stands, so that another can go on there: counts, the loss scale, the schedule's own
 * state. */
#include <float.h>
#include <string.h>

#include "engine/internal.h"
#include "host/sized.h"

zds_status zds_get_progress(zds_engine *e, zds_progress *progress)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (!sized_is_set(progress))
        return engine_fail(e, ZDS_ERR_INVALID, "zds_get_progress: " SIZED_NOT_SET, "zds_progress",
                           sized_told(progress));
    const zds_progress now = {.struct_size = sizeof now,
                              .steps = e->steps,
                              .skips = e->skips,
                              .loss_scale = e->scale.value,
                              .scale_steps = e->scale.steps,
                              .scale_overflow = e->scale.last_overflow,
                              .scale_patience = e->scale.patience};
    sized_fill(progress, progress->struct_size, &now, sizeof now);
    return ZDS_OK;
}

/* No run comes so far, and what is counted on from there is still a number. */
static const int64_t MOST = INT64_C(1) << 53;

static const char *progress_fault(const zds_engine *e, const zds_progress *p)
{
    if (p->steps < 0 || p->skips < 0)
        return "counts below 0";
    if (p->steps > MOST || p->skips > MOST || p->scale_steps > MOST)
        return "counts above 2 to the 53rd";
    if (!(p->loss_scale >= (double)FLT_MIN && p->loss_scale <= (double)FLT_MAX))
        return "a loss_scale that fp32 cannot hold";
    if (!e->scale.dynamic && p->loss_scale != e->scale.value)
        return "a loss_scale that is not the config's: only fp16's dynamic one moves";
    if (e->scale.dynamic && p->loss_scale < e->scale.least && p->loss_scale < e->set.scale.value)
        return "a loss_scale below fp16.min_loss_scale";
    int64_t most = e->scale.hysteresis, least = most < 1 ? most : 1;
    if (e->scale.dynamic && (p->scale_patience < least || p->scale_patience > most))
        return "a scale_patience that is not from 1 to fp16.hysteresis";
    if (p->scale_overflow < -1 || p->scale_overflow >= p->scale_steps + (p->scale_steps == 0))
        return "a scale_overflow that is no boundary of the scale_steps";
    return NULL;
}

zds_status zds_set_progress(zds_engine *e, const zds_progress *progress)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    const size_t least = ZDS_SIZE_THROUGH(zds_progress, scale_patience);
    if (!sized_reaches(progress, least))
        return engine_fail(e, ZDS_ERR_INVALID, "zds_set_progress: " SIZED_TOO_SHORT, "zds_progress",
                           sized_told(progress), least);
    if (!e->values_set || engine_in_step(e))
        return engine_fail(e, ZDS_ERR_INVALID, "zds_set_progress %s",
                           e->values_set ? "in the middle of an optimizer step"
                                         : "before zds_set_values");
    const char *fault = progress_fault(e, progress);
    if (fault)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_set_progress: %s", fault);
    int64_t mine[] = {progress->steps,          progress->skips,          progress->scale_steps,
                      progress->scale_overflow, progress->scale_patience, 0};
    memcpy(&mine[5], &progress->loss_scale, sizeof mine[5]);
    const void *all;
    status = peers_gather(e->control, mine, sizeof mine, &all, "zds_set_progress");
    for (int32_t r = 0; !status && r < e->launch.world_size; r++)
        if (memcmp((const char *)all + (size_t)r * sizeof mine, mine, sizeof mine) != 0) {
            engine_fail(e, ZDS_ERR_DIVERGED,
                        "rank %d sets another progress than rank %d (zds_set_progress)", r,
                        e->launch.rank);
            status = engine_give_up(e, ZDS_ERR_DIVERGED);
        }
    if (status)
        return status;
    e->steps = e->sched_moves = progress->steps;
    e->skips = progress->skips;
    e->scale.value = progress->loss_scale;
    e->scale.steps = progress->scale_steps;
    e->scale.last_overflow = progress->scale_overflow;
    e->scale.patience = progress->scale_patience;
    status = update_hypers(e, e->sched_moves);
    return status ? engine_give_up(e, status) : ZDS_OK;
}

/* === the schedule's own state === */

uint64_t zds_schedule_state_bytes(const zds_engine *e)
{
    return e && e->has_sched && e->sched.state_bytes ? e->sched.state_bytes(e->sched_self) : 0;
}

static zds_status sched_failed(zds_engine *e, zds_status status, const char *what)
{
    return engine_fail(e, status, "the scheduler failed to %s its state: %s", what,
                       services_error(&e->sched_services));
}

zds_status zds_get_schedule_state(zds_engine *e, void *state)
{
    zds_status status = engine_usable(e);
    if (status || !zds_schedule_state_bytes(e))
        return status;
    if (!state)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_get_schedule_state: state is NULL");
    services_clear(&e->sched_services);
    status = e->sched.save(e->sched_self, state);
    return status ? sched_failed(e, status, "save") : ZDS_OK;
}

zds_status zds_set_schedule_state(zds_engine *e, const void *state, uint64_t bytes)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (engine_in_step(e))
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_set_schedule_state in the middle of an optimizer step");
    if (bytes != zds_schedule_state_bytes(e) || (bytes && !state))
        return engine_fail(
            e, ZDS_ERR_INVALID,
            "zds_set_schedule_state: %llu bytes, but the schedule has %llu: they are "
            "of another schedule, or of other options",
            (unsigned long long)bytes, (unsigned long long)zds_schedule_state_bytes(e));
    if (!bytes)
        return ZDS_OK;
    services_clear(&e->sched_services);
    status = e->sched.load(e->sched_self, state, bytes);
    if (status)
        return sched_failed(e, status, "load");
    status = update_hypers(e, e->sched_moves);
    return status ? engine_give_up(e, status) : ZDS_OK;
}
