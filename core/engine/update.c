/* The boundary: norm, overflow and clipping over all ranks, the optimizer's one pass over the
 * tiles, publishing, the schedule. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/log.h"

/* This rank's part of the norm: chunk by chunk, span by span, so that the bits do not depend on
 * threads. */
static exchange_row local_sums(const zds_engine *e)
{
    exchange_row row = {.loss = e->pending_loss};
    for (uint32_t k = 0; k < e->lay->span_count; k++) {
        const span_run *run = &e->span_runs[k];
        if (!e->lay->spans[k].count)
            continue;
        for (size_t i = 0; !e->local && i < run->chunk_count; i++)
            row.sum_squares += run->chunk_sums[i];
        if (e->local)
            row.sum_squares += run->own_sum_squares;
        row.non_finite += run->non_finite;
    }
    return row;
}

/* One exchange of small rows: sums in rank order, and which parameters have a gradient anywhere.
 * Where gradients stay each rank's own, the norm is the mean of the ranks' norms. */
static zds_status exchange(zds_engine *e, exchange_row *total, double *norm)
{
    double norms = 0;
    uint32_t params = e->model->param_count;
    size_t bytes = sizeof(exchange_row) + params;
    char *mine = e->control.base;
    exchange_row row = local_sums(e);
    memcpy(mine, &row, sizeof row);
    for (uint32_t i = 0; i < params; i++)
        mine[sizeof row + i] = e->param_runs[i].present;
    const void *all;
    zds_status status = engine_gather_small(e, mine, bytes, &all);
    if (status)
        return status;
    *total = (exchange_row){0};
    for (int32_t r = 0; r < e->place.world_size; r++) {
        const char *theirs = (const char *)all + (size_t)r * bytes;
        memcpy(&row, theirs, sizeof row);
        total->sum_squares += row.sum_squares;
        norms += sqrt(row.sum_squares);
        total->non_finite += row.non_finite;
        total->loss += row.loss;
        for (uint32_t i = 0; i < params; i++)
            e->param_runs[i].present |= theirs[sizeof row + i] != 0;
    }
    total->loss /= e->place.world_size;
    *norm = e->local ? e->set.sum_factor * norms / e->place.world_size : sqrt(total->sum_squares);
    return ZDS_OK;
}

/* Tiles of parameters with a gradient, in batches of about one tile's size, so that small
 * parameters do not cost a call each; and those of whole parameters. */
static void batch_tiles(zds_engine *e)
{
    e->batch_count = e->whole_count = 0;
    uint64_t size = TILE_ELEMENTS;
    bool joined = false;
    for (uint32_t k = 0; k < e->piece_count; k++) {
        const owned_piece *p = &e->pieces[k];
        const param_run *run = &e->param_runs[p->param];
        if (run->present && run->needs.whole_tensor)
            e->whole_tiles[e->whole_count++] = e->tiles[p->tile_first];
        if (!run->present || run->needs.whole_tensor) {
            joined = false;
            continue;
        }
        for (uint32_t t = p->tile_first; t < p->tile_first + p->tile_count; t++) {
            if (joined && size + e->tiles[t].count <= TILE_ELEMENTS) {
                e->batches[e->batch_count - 1].count++;
                size += e->tiles[t].count;
            } else {
                e->batches[e->batch_count++] = (tile_batch){.first = t, .count = 1};
                size = e->tiles[t].count;
                joined = true;
            }
        }
    }
}

typedef struct update {
    zds_engine *e;
    double grad_scale;
    _Atomic int32_t status;
} update;

static void run_tiles(update *u, const zds_tile *first, size_t count, int32_t thread,
                      zds_status (*function)(void *, const zds_tiles *, const zds_step_ctx *))
{
    zds_engine *e = u->e;
    zds_tiles tiles = {
        .struct_size = sizeof tiles, .count = count, .stride = sizeof *first, .first = first};
    zds_step_ctx ctx = {.struct_size = sizeof ctx,
                        .step = e->steps + 1,
                        .grad_scale = u->grad_scale,
                        .seed = e->seed,
                        .scratch = e->scratch[thread],
                        .scratch_bytes = e->optim.scratch_bytes};
    zds_status status = function(e->optim_self, &tiles, &ctx);
    if (status)
        u->status = status;
}

static void step_batch(void *arg, size_t i, int32_t thread)
{
    update *u = arg;
    const tile_batch *b = &u->e->batches[i];
    run_tiles(u, &u->e->tiles[b->first], b->count, thread, u->e->optim.step);
}

static void norms_batch(void *arg, size_t i, int32_t thread)
{
    update *u = arg;
    const tile_batch *b = &u->e->batches[i];
    run_tiles(u, &u->e->tiles[b->first], b->count, thread, u->e->optim.norms);
}

/* Sums over whole tensors: in chunk, then rank order. At stage 0 every rank has all of them. */
static zds_status sum_norms(zds_engine *e)
{
    memset(e->norm_sums, 0, e->norm_count * sizeof *e->norm_sums);
    for (uint32_t k = 0; k < e->piece_count; k++) {
        const owned_piece *p = &e->pieces[k];
        const param_run *run = &e->param_runs[p->param];
        for (uint32_t q = 0; run->present && q < run->needs.tensor_norms; q++)
            for (size_t c = 0; c < p->chunks; c++)
                run->sums[q] += p->chunk_sums[q * p->chunks + c];
    }
    if (e->set.stage == 0 || e->place.world_size == 1)
        return ZDS_OK;
    const void *all;
    zds_status status =
        engine_gather_small(e, e->norm_sums, e->norm_count * sizeof *e->norm_sums, &all);
    if (status)
        return status;
    memset(e->norm_sums, 0, e->norm_count * sizeof *e->norm_sums);
    for (int32_t r = 0; r < e->place.world_size; r++)
        for (uint32_t i = 0; i < e->norm_count; i++)
            e->norm_sums[i] += ((const double *)all)[(size_t)r * e->norm_count + i];
    return ZDS_OK;
}

zds_status update_failed(zds_engine *e, zds_status status, const char *what)
{
    engine_fail(e, status, "optimizer %s failed in %s of step %lld: %s", e->optim_plugin->name,
                what, (long long)e->steps + 1, services_error(&e->optim_services));
    return engine_give_up(e, status); /* some tiles are updated and some are not */
}

/* The optimizer's pass over all tiles of this rank, and one before it where it wants norms. */
static zds_status step_tiles(zds_engine *e, const zds_step_ctx *ctx)
{
    batch_tiles(e);
    update u = {.e = e, .grad_scale = ctx->grad_scale};
    if (e->norm_count) {
        pool_run(e->threads, e->batch_count, norms_batch, &u);
        if (u.status)
            return update_failed(e, u.status, "norms");
        zds_status status = sum_norms(e);
        if (!status)
            status = params_sums_ready(e, ctx);
        if (status)
            return status;
    }
    pool_run(e->threads, e->batch_count, step_batch, &u);
    if (!u.status && e->whole_count)
        run_tiles(&u, e->whole_tiles, e->whole_count, 0, e->optim.step);
    e->own_states_cut = e->set.stage >= 1 && e->place.world_size > 1;
    return u.status ? update_failed(e, u.status, "step") : ZDS_OK;
}

static zds_status publish_part(zds_engine *e,
                               zds_status (*send)(void *, const zds_coll *, zds_event **),
                               const zds_coll *coll)
{
    zds_event *event = NULL;
    zds_status status = send(e->comm_self, coll, &event);
    if (status)
        return engine_comm_failed(e, status, "publishing parameters");
    return engine_wait(e, &event, "publishing parameters");
}

/* Parameters that are not cut, from each owner to all. */
static zds_status publish_owners(zds_engine *e, const layout_span *span, zds_coll coll)
{
    char *base = coll.dst;
    zds_status status = ZDS_OK;
    for (uint32_t r = 0; !status && r < e->lay->world_size; r++) {
        coll.count = layout_part_count(span, r);
        coll.peer = (int32_t)r;
        coll.dst = base + layout_part_first(span, r) * zds_dtype_size(coll.src_dtype);
        coll.src = coll.dst;
        if (coll.count)
            status = publish_part(e, e->comm.broadcast, &coll);
    }
    return status;
}

/* Everybody may read the new parameters. */
static zds_status publish(zds_engine *e)
{
    if (e->set.stage == 0 || e->place.world_size == 1)
        return ZDS_OK;
    services_clear(&e->comm_services);
    zds_status status = ZDS_OK;
    if (e->params_shared) {
        zds_coll coll = {.struct_size = sizeof coll, .tag = 3};
        status = e->comm.barrier(e->comm_self, &coll, &e->publish);
        return status ? engine_comm_failed(e, status, "publishing parameters") : ZDS_OK;
    }
    size_t size = zds_dtype_size(e->set.param_dtype);
    for (uint32_t k = 0; !status && k < e->lay->span_count; k++) {
        const layout_span *span = &e->lay->spans[k];
        char *base = (char *)e->params.base + span->first * size;
        zds_coll coll = {.struct_size = sizeof coll,
                         .tag = (uint64_t)k << 8 | 4,
                         .src = base + (uint64_t)e->place.rank * span->slice * size,
                         .dst = base,
                         .count = span->slice,
                         .src_dtype = e->set.param_dtype,
                         .dst_dtype = e->set.param_dtype};
        if (!span->count)
            continue;
        if (span->parts)
            status = publish_owners(e, span, coll);
        else
            status = publish_part(e, e->comm.all_gather, &coll);
    }
    return status;
}

static zds_status apply(zds_engine *e, double grad_scale)
{
    services_clear(&e->optim_services);
    zds_step_ctx ctx = {.struct_size = sizeof ctx,
                        .step = e->steps + 1,
                        .grad_scale = grad_scale,
                        .seed = e->seed,
                        .scratch = e->scratch[0],
                        .scratch_bytes = e->optim.scratch_bytes};
    zds_status status = params_begin_step(e, &ctx);
    if (!status)
        status = e->local ? params_step_collective(e, &ctx) : step_tiles(e, &ctx);
    if (status)
        return status;
    if (e->optim.end_step && (status = e->optim.end_step(e->optim_self, &ctx)) != ZDS_OK)
        return update_failed(e, status, "end_step");
    return publish(e);
}

/* Gradients of this optimizer step are used up. */
static void reset(zds_engine *e)
{
    for (uint32_t i = 0; i < e->model->param_count; i++)
        e->param_runs[i].written = e->param_runs[i].present = false;
    for (uint32_t k = 0; k < e->lay->span_count; k++)
        e->span_runs[k].accumulated = false;
    e->micro = 0;
    e->boundary = false;
}

static zds_status unused_parameter(zds_engine *e)
{
    for (uint32_t i = 0; i < e->model->param_count; i++)
        if (e->param_runs[i].trainable && !e->param_runs[i].present && e->model->params[i].numel)
            return engine_fail(e, ZDS_ERR_INVALID,
                               "parameter %s got no gradient on any rank, and "
                               "zero_optimization.ignore_unused_parameters "
                               "is false: freeze it, use it, or set the key to true",
                               e->model->params[i].name);
    return ZDS_OK;
}

static void print_step(zds_engine *e, const zds_step_result *r)
{
    int64_t count = r->steps + r->skips;
    if (e->place.rank != 0 || !e->set.print_every || count % e->set.print_every)
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

zds_status update_boundary(zds_engine *e, zds_step_result *r)
{
    double start = engine_now_ms();
    exchange_row total;
    double norm;
    zds_status status = reduce_finish_all(e);
    if (!status)
        status = exchange(e, &total, &norm);
    double reduced = engine_now_ms();
    if (status)
        return status;
    if (e->set.stage == 2 && !e->set.ignore_unused && (status = unused_parameter(e)) != ZDS_OK) {
        reset(e); /* the step's gradients are dropped, on all ranks alike */
        return status;
    }
    bool finite = total.non_finite == 0;
    r->grad_norm = finite && !e->set.compute_norm ? NAN : norm;
    e->mean_loss = total.loss;
    if (finite || !e->set.check_overflow) {
        double clip =
            e->set.clip > 0 && norm + 1e-6 > e->set.clip ? e->set.clip / (norm + 1e-6) : 1;
        status = storage_seal(e, false);
        if (!status)
            status = apply(e, e->local ? clip * e->set.sum_factor : clip);
        if (!status)
            status = storage_seal(e, true);
        if (status)
            return status;
        e->steps++;
        r->applied = 1;
        status = update_hypers(e, ++e->sched_moves);
        if (status) /* the parameters are updated, but there is no rate to go on with */
            return engine_give_up(e, status);
    } else {
        e->skips++;
        r->skipped = 1;
    }
    reset(e);
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
    if (!ops || !ops->forward || !ops->backward)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_train_batch: forward and backward must be given");
    if (e->micro || e->in_micro)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_train_batch in the middle of an optimizer step");
    zds_step_result step = {.struct_size = sizeof step};
    double sum = 0;
    int64_t count = e->set.accumulation;
    for (int64_t micro = 0; micro < count; micro++) {
        status = zds_micro_begin(e, micro + 1 == count ? ZDS_BOUNDARY_YES : ZDS_BOUNDARY_NO);
        if (status)
            return status;
        double loss = NAN;
        free(e->error); /* an old text must not explain a callback's failure */
        e->error = NULL;
        status = ops->forward(user, e, micro, &loss);
        if (!status)
            status = ops->backward(user, e, micro, zds_loss_scale(e));
        if (status) {
            if (!e->error)
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
    if (result) {
        size_t size = result->struct_size < sizeof step ? result->struct_size : sizeof step;
        step.struct_size = result->struct_size;
        memcpy(result, &step, size);
    }
    return ZDS_OK;
}
