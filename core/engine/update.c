/* The boundary: norm, overflow and clipping over all ranks, the optimizer's one pass over the
 * tiles, publishing, the schedule. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/log.h"
#include "host/sized.h"

static void print_step(zds_engine *e, const zds_step_result *r)
{
    int64_t count = r->steps + r->skips;
    if (e->launch.rank != 0 || !e->set.print_every || count % e->set.print_every)
        return;
    log_line(ZDS_LOG_INFO, -1, NULL, "step=%lld, skipped=%lld, lr=%g, grad_norm=%g, loss_scale=%g",
             (long long)count, (long long)r->skips, r->lr, r->grad_norm, r->loss_scale);
    if (e->set.breakdown)
        log_line(ZDS_LOG_INFO, -1, NULL,
                 "time (ms) | forward: %.2f | backward: %.2f (reports: %.2f) | reduce: %.2f | "
                 "update: %.2f",
                 e->now.forward_ms, e->now.backward_ms, e->now.grad_ready_ms, e->now.reduce_ms,
                 e->now.update_ms);
}

/* Gradients of this optimizer step are used up, or dropped. */
static void reset(zds_engine *e)
{
    zero_reset(e->zero);
    e->micro = e->unsynced = 0;
    e->boundary = e->finished = e->spoilt = false;
}

/* Of what a step will use, for comparison between ranks. */
static uint64_t hash_hypers(const zds_engine *e)
{
    uint64_t hash = 0;
    for (uint32_t g = 0; g < e->hyper_count; g++)
        hash = XXH64(&e->hypers[g].lr, ZDS_HYPER_1_0 - offsetof(zds_hyper, lr), hash);
    return hash;
}

/* Reductions, and what all ranks know then; changes nothing. */
static zds_status finish(zds_engine *e)
{
    double start = engine_now_ms();
    zds_status status = zero_reduce(e->zero);
    const zero_norm_own own = {.micro = e->micro + e->unsynced,
                               .accumulation = e->accumulation,
                               .rates = hash_hypers(e),
                               .loss = e->pending_loss,
                               .spoilt = e->spoilt};
    if (!status)
        status = zero_norm(e->zero, &own, &e->norm);
    if (status)
        return status;
    e->now.reduce_ms = engine_now_ms() - start;
    e->norm.norm /= e->scale.value;
    e->finished = true;
    if (e->set.stage != 2 || e->set.ignore_unused || e->norm.unused < 0)
        return ZDS_OK;
    reset(e); /* the step's gradients are dropped, on all ranks alike */
    return engine_fail(e, ZDS_ERR_INVALID,
                       "parameter %s got no gradient on any rank, and "
                       "zero_optimization.ignore_unused_parameters is false: freeze it, use "
                       "it, or set the key to true",
                       e->model->params[e->norm.unused].name);
}

static bool is_overflow(const zds_engine *e)
{
    return e->norm.non_finite && !e->norm.spoilt && e->set.check_overflow;
}

static zds_status apply(zds_engine *e, zds_step_result *r)
{
    double norm = e->norm.norm + 1e-6,
           clip = e->set.clip > 0 && norm > e->set.clip ? e->set.clip / norm : 1;
    zds_status status = zero_update(
        e->zero, e->steps + 1, (e->local ? clip * e->set.zero.sum_factor : clip) / e->scale.value);
    if (status || !e->norm.any) /* what began beside backward is ended, and did nothing */
        return status;
    e->steps++;
    r->applied = 1;
    status = update_hypers(e, ++e->sched_moves);
    /* The parameters are updated, but there is no rate to go on with. */
    return status ? engine_give_up(e, status) : ZDS_OK;
}

static zds_status follow_overflow(zds_engine *e)
{
    if (loss_scale_update(&e->scale, e->norm.non_finite != 0))
        return ZDS_OK;
    return engine_fail(e, ZDS_ERR_OVERFLOW,
                       "a gradient is not finite at loss scale %g, and fp16.min_loss_scale lets it "
                       "fall no further: the training diverges, or fp16's range (65504) is too "
                       "small for it; bf16 has the range of fp32",
                       e->scale.value);
}

static void add_times(zds_engine *e)
{
    e->times.grad_ready_ms += e->now.grad_ready_ms;
    e->times.reduce_ms += e->now.reduce_ms;
    e->times.update_ms += e->now.update_ms;
    e->times.forward_ms += e->now.forward_ms;
    e->times.backward_ms += e->now.backward_ms;
    e->now = (zds_step_times){0};
}

/* Ends an optimizer step that is finished: its gradients are used, or dropped. */
static zds_status conclude(zds_engine *e, bool discard, zds_step_result *r)
{
    double start = engine_now_ms();
    bool overflow = is_overflow(e), drop = discard || overflow || e->norm.spoilt;
    zds_status status = ZDS_OK;
    r->grad_norm = e->norm.non_finite || e->set.compute_norm ? e->norm.norm : NAN;
    e->mean_loss = e->norm.loss;
    if (drop) {
        e->skips++;
        r->skipped = 1;
    } else if ((e->norm.any || e->set.zero.overlap_step) && (status = apply(e, r)) != ZDS_OK) {
        return status;
    }
    reset(e);
    if (overflow || !drop)
        status = follow_overflow(e);
    r->loss_scale = e->scale.value;
    r->steps = e->steps;
    r->skips = e->skips;
    r->next_lr = first_rate(e);
    e->now.update_ms = engine_now_ms() - start;
    print_step(e, r);
    add_times(e);
    return status;
}

/* === the calls === */

static zds_step_result empty_result(const zds_engine *e)
{
    zds_step_result r = {.struct_size = sizeof r,
                         .steps = e->steps,
                         .skips = e->skips,
                         .grad_norm = NAN,
                         .loss_scale = e->scale.value,
                         .loss = NAN};
    r.lr = r.next_lr = first_rate(e);
    return r;
}

/* At the end of a micro step. */
static zds_status check_end(zds_engine *e, const char *call, const zds_step_result *result)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (result && !sized_is_set(result))
        return engine_fail(e, ZDS_ERR_INVALID, "%s: " SIZED_NOT_SET, call, "zds_step_result",
                           result->struct_size);
    if (!e->in_micro)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "%s outside a micro step: call zds_micro_begin first", call);
    if (e->no_sync)
        return engine_fail(e, ZDS_ERR_INVALID, "%s between zds_no_sync(true) and (false)", call);
    status = engine_all_reported(e, call);
    return status ? status : engine_close_forwards(e, call);
}

static void fill_result(zds_step_result *result, const zds_step_result *now)
{
    if (result)
        sized_fill(result, result->struct_size, now, sizeof *now);
}

/* The backward is over: what was not reported has no gradients. */
static zds_status end_backward(zds_engine *e, double now)
{
    if (e->in_backward)
        e->now.backward_ms += now - e->phase_start;
    e->in_backward = false;
    return engine_pass_over(e, 0);
}

/* After zds_finish all ranks must go on alike. */
static zds_status agree_on_end(zds_engine *e, const char *call, bool discard)
{
    int64_t mine = discard;
    const void *all;
    zds_status status = peers_gather(e->control, &mine, sizeof mine, &all, call);
    for (int32_t r = 0; !status && r < e->launch.world_size; r++)
        if (((const int64_t *)all)[r] != mine) {
            engine_fail(e, ZDS_ERR_DIVERGED,
                        "rank %d calls %s after zds_finish, rank %d %s: all ranks must do the same",
                        r, discard ? "zds_step" : "zds_discard", e->launch.rank, call);
            status = engine_give_up(e, ZDS_ERR_DIVERGED);
        }
    return status;
}

zds_status zds_finish(zds_engine *e, zds_step_result *result)
{
    double start = engine_now_ms();
    zds_status status = check_end(e, "zds_finish", result);
    if (status)
        return status;
    if (e->set.zero.overlap_step)
        return engine_fail(e, ZDS_ERR_UNSUPPORTED,
                           "zds_finish with zds.overlap_step: parameters are updated by then; set "
                           "the key to false");
    if (!e->boundary || e->finished)
        return engine_fail(e, ZDS_ERR_INVALID,
                           e->finished ? "zds_finish twice: zds_step or zds_discard is next"
                                       : "zds_finish in a micro step that is no boundary");
    status = end_backward(e, start);
    e->micro++; /* as this micro step's end counts it */
    if (!status)
        status = finish(e);
    e->micro -= e->finished;
    e->in_micro = e->finished;
    e->times.step_ms += engine_now_ms() - start;
    if (status)
        return status;
    zds_step_result now = empty_result(e);
    now.grad_norm = e->norm.non_finite || e->set.compute_norm ? e->norm.norm : NAN;
    now.skipped = is_overflow(e) || e->norm.spoilt;
    fill_result(result, &now);
    return ZDS_OK;
}

static zds_status end_step(zds_engine *e, const char *call, bool discard, zds_step_result *result)
{
    double start = engine_now_ms();
    bool finished = e->finished;
    zds_status status = end_backward(e, start);
    if (!status && finished)
        status = agree_on_end(e, call, discard);
    if (status)
        return status;
    zds_step_result now = empty_result(e);
    e->micro++;
    e->in_micro = false;
    if (e->boundary && !finished)
        status = finish(e);
    if (!status && e->boundary)
        status = conclude(e, discard, &now);
    e->times.step_ms += engine_now_ms() - start;
    fill_result(result, &now);
    return status;
}

zds_status zds_step(zds_engine *e, zds_step_result *result)
{
    zds_status status = check_end(e, "zds_step", result);
    return status ? status : end_step(e, "zds_step", false, result);
}

zds_status zds_discard(zds_engine *e, zds_step_result *result)
{
    zds_status status = check_end(e, "zds_discard", result);
    if (!status && !e->finished)
        status = engine_fail(e, ZDS_ERR_INVALID, "zds_discard without zds_finish before it");
    return status ? status : end_step(e, "zds_discard", true, result);
}

zds_status zds_train_batch(zds_engine *e, const zds_model_ops *ops, void *user,
                           zds_step_result *result)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    const size_t least = ZDS_SIZE_THROUGH(zds_model_ops, backward);
    if (ops && !sized_reaches(ops, least))
        return engine_fail(e, ZDS_ERR_INVALID, "zds_train_batch: " SIZED_TOO_SHORT, "zds_model_ops",
                           ops->struct_size, least);
    if (result && !sized_is_set(result))
        return engine_fail(e, ZDS_ERR_INVALID, "zds_train_batch: " SIZED_NOT_SET, "zds_step_result",
                           result->struct_size);
    if (!ops || !ops->forward || !ops->backward)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_train_batch: forward and backward must be given");
    if (engine_in_step(e))
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_train_batch in the middle of an optimizer step");
    zds_step_result step = empty_result(e);
    double sum = 0;
    int64_t count = e->accumulation;
    for (int64_t micro = 0; micro < count; micro++) {
        status = zds_micro_begin(e, micro + 1 == count ? ZDS_BOUNDARY_YES : ZDS_BOUNDARY_NO);
        if (status)
            return status;
        double loss = NAN;
        failure_clear(&e->failure); /* an old text must not explain a callback's failure */
        status = ops->forward(user, e, micro, &loss);
        if (!status && !e->given_up)
            status = ops->backward(user, e, micro, zds_loss_scale(e));
        if (e->given_up) /* whatever it returns after zds_fail */
            return e->given_up;
        if (status) {
            if (!e->failure.text)
                engine_fail(e, status, "the model's forward or backward failed (%s)",
                            zds_status_name(status));
            return engine_give_up(e, status);
        }
        sum += loss;
        e->pending_loss = sum / (double)count;
        status = zds_step(e, &step);
        if (status) {
            fill_result(result, &step);
            return status;
        }
    }
    e->pending_loss = NAN;
    step.loss = e->mean_loss;
    fill_result(result, &step);
    return ZDS_OK;
}
