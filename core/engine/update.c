/* The boundary: norm, overflow and clipping over all ranks, the optimizer's one pass over the
 * tiles, publishing, the schedule. */
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
    e->boundary = false;
}

static zds_status apply(zds_engine *e, const zero_norm_result *n, zds_step_result *r)
{
    double clip =
        e->set.clip > 0 && n->norm + 1e-6 > e->set.clip ? e->set.clip / (n->norm + 1e-6) : 1;
    zds_status status = zero_update(e->zero, e->steps + 1,
                                    (e->local ? clip * e->set.sum_factor : clip) / e->scale.value);
    if (status)
        return status;
    e->steps++;
    r->applied = 1;
    status = update_hypers(e, ++e->sched_moves);
    /* The parameters are updated, but there is no rate to go on with. */
    return status ? engine_give_up(e, status) : ZDS_OK;
}

static zds_status follow_overflow(zds_engine *e, bool overflow)
{
    if (loss_scale_update(&e->scale, overflow))
        return ZDS_OK;
    return engine_fail(e, ZDS_ERR_OVERFLOW,
                       "a gradient is not finite at loss scale %g, and fp16.min_loss_scale lets it "
                       "fall no further: the training diverges, or fp16's range (65504) is too "
                       "small for it; bf16 has the range of fp32",
                       e->scale.value);
}

zds_status update_boundary(zds_engine *e, zds_step_result *r)
{
    double start = engine_now_ms();
    zero_norm_result n;
    zds_status status = zero_reduce(e->zero);
    if (!status)
        status = zero_norm(e->zero, e->pending_loss, e->micro + e->unsynced, e->accumulation, &n);
    double reduced = engine_now_ms();
    if (status)
        return status;
    if (e->set.stage == 2 && !e->set.ignore_unused && n.unused >= 0) {
        reset(e); /* the step's gradients are dropped, on all ranks alike */
        return engine_fail(e, ZDS_ERR_INVALID,
                           "parameter %s got no gradient on any rank, and "
                           "zero_optimization.ignore_unused_parameters is false: freeze it, use "
                           "it, or set the key to true",
                           e->model->params[n.unused].name);
    }
    n.norm /= e->scale.value;
    bool finite = n.non_finite == 0;
    r->grad_norm = finite && !e->set.compute_norm ? NAN : n.norm;
    e->mean_loss = n.loss;
    if (!finite && e->set.check_overflow) {
        e->skips++;
        r->skipped = 1;
    } else if (n.any && (status = apply(e, &n, r)) != ZDS_OK) {
        return status;
    }
    reset(e);
    status = follow_overflow(e, !finite);
    r->loss_scale = e->scale.value;
    r->steps = e->steps;
    r->skips = e->skips;
    r->next_lr = first_rate(e);
    e->now.reduce_ms = reduced - start;
    e->now.update_ms = engine_now_ms() - reduced;
    print_step(e, r);
    e->times.grad_ready_ms += e->now.grad_ready_ms;
    e->times.reduce_ms += e->now.reduce_ms;
    e->times.update_ms += e->now.update_ms;
    e->times.forward_ms += e->now.forward_ms;
    e->times.backward_ms += e->now.backward_ms;
    e->now = (zds_step_times){0};
    return status;
}

zds_status zds_train_batch(zds_engine *e, const zds_model_ops *ops, void *user,
                           zds_step_result *result)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (ops && !ZDS_HAS(ops, backward))
        return engine_fail(e, ZDS_ERR_INVALID, "zds_train_batch: " SIZED_NOT_SET, "zds_model_ops",
                           ops->struct_size);
    if (result && !sized_is_set(result))
        return engine_fail(e, ZDS_ERR_INVALID, "zds_train_batch: " SIZED_NOT_SET, "zds_step_result",
                           result->struct_size);
    if (!ops || !ops->forward || !ops->backward)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_train_batch: forward and backward must be given");
    if (engine_in_step(e))
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_train_batch in the middle of an optimizer step");
    zds_step_result step = {.struct_size = sizeof step};
    double sum = 0;
    int64_t count = e->accumulation;
    for (int64_t micro = 0; micro < count; micro++) {
        status = zds_micro_begin(e, micro + 1 == count ? ZDS_BOUNDARY_YES : ZDS_BOUNDARY_NO);
        if (status)
            return status;
        double loss = NAN;
        failure_clear(&e->failure); /* an old text must not explain a callback's failure */
        status = ops->forward(user, e, micro, &loss);
        if (!status)
            status = ops->backward(user, e, micro, zds_loss_scale(e));
        if (status) {
            if (!e->failure.text)
                engine_fail(e, status, "the model's forward or backward failed (%s)",
                            zds_status_name(status));
            return engine_give_up(e, status);
        }
        sum += loss;
        e->pending_loss = sum / (double)count;
        status = zds_step(e, &step);
        if (status)
            return status;
    }
    e->pending_loss = NAN;
    step.loss = e->mean_loss;
    if (result)
        sized_fill(result, result->struct_size, &step, sizeof step);
    return ZDS_OK;
}
