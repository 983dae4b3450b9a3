/* Updates beside backward: spans one by one, last first, as they are reduced.
 *
 * A span is updated once nobody uses it any more: all ranks have given what its reduction takes,
 * which they do after their last use. The update of one begins after the reduction of the next has,
 * which is the same on all ranks, so that what they send then is, too. One pass goes over the
 * windows of all spans: records are read ahead of the one whose turn it is, and written behind,
 * while the caller computes. */
#include "zero/parts.h"

static const char *what_it_lacks(const zero *z)
{
    const zds_optim_ops *ops = z->with.optim;
    for (uint32_t i = 0; i < z->with.model->param_count; i++)
        if (z->with.params[i].needs.tensor_norms)
            return "scales by norms of tensors";
    if (ops->reduction_mode)
        return "reduces gradients by itself";
    return ops->begin_step ? "begins a step with the list of all gradients" : NULL;
}

zds_status overlap_create(zero *z, zds_error *error)
{
    const char *lacks = z->wish.overlap_step ? what_it_lacks(z) : NULL;
    if (lacks)
        return error_set(error, ZDS_ERR_UNSUPPORTED,
                         "optimizer %s %s, which are not known before backward is over; set "
                         "zds.overlap_step to false, or use an optimizer that does not (AdamW)",
                         z->with.optim_services->name, lacks);
    return z->wish.overlap_step && z->queue
               ? tier_stream_create(z->with.tier, &z->overlap.queue, error)
               : ZDS_OK;
}

void overlap_destroy(zero *z)
{
    if (z->overlap.queue)
        tier_stream_destroy(z->with.tier, z->overlap.queue);
}

/* What the update puts on the device's queue goes beside what callers wait for. */
static void swap_queues(zero *z)
{
    zds_stream *queue = z->queue;
    if (!z->overlap.queue)
        return;
    z->queue = z->overlap.queue;
    z->overlap.queue = queue;
}

zds_status zero_update_begin(zero *z, int64_t step, double grad_scale)
{
    overlap_part *o = &z->overlap;
    services_clear(z->with.optim_services);
    z->stream.replaced = true;
    o->pass = (stream_pass){.function = z->with.optim->step, .writes = true};
    o->next = z->lay->span_count;
    o->on = true;
    swap_queues(z);
    const zds_step_ctx ctx = stream_ctx(z, step, grad_scale);
    zds_status status = stream_open(z, &o->pass, &ctx, stream_takes_cut);
    swap_queues(z);
    return status;
}

static zds_status check_finite(zero *z, uint32_t k)
{
    if (!z->wish.finite || !z->grads.spans[k].non_finite)
        return ZDS_OK;
    failure_set(z->with.failure, ZDS_ERR_OVERFLOW,
                "rank %d: a gradient of module %s is not finite, and with zds.overlap_step the "
                "modules behind it are updated by now, so that the step cannot be skipped: go on "
                "from a checkpoint, with a lower rate or without zds.overlap_step",
                z->with.peers->rank, z->with.model->modules[z->lay->spans[k].first_module].name);
    return peers_give_up(z->with.peers, ZDS_ERR_OVERFLOW);
}

static zds_status update_span(zero *z, uint32_t k)
{
    uint64_t end = z->overlap.pass.at;
    zds_status status = grads_await(z, k);
    if (!status)
        status = check_finite(z, k);
    const layout_span *span = &z->lay->spans[k];
    if (!status && span->count)
        status = presence_await(z, k);
    if (!status)
        status = publish_begin_span(z, k);
    for (uint32_t i = 0; i < span->param_count; i++) {
        const piece *p = z->stream.piece_of[span->params[i]];
        if (!p)
            continue;
        stream_expect(z, p);
        end = p->window_end > end ? p->window_end : end;
    }
    if (status)
        return status;
    /* What is put there comes after the reduction; the memory of both is used again later. */
    if (z->queue)
        status = zero_follow(z, z->overlap.queue, z->queue);
    swap_queues(z);
    if (!status)
        status = stream_advance(&z->overlap.pass, end);
    if (!status && !span->parts) /* what is updated whole is so at the end */
        status = publish_span(z, k);
    swap_queues(z);
    return status;
}

zds_status overlap_advance(zero *z, uint32_t k)
{
    overlap_part *o = &z->overlap;
    zds_status status = o->next == z->lay->span_count ? params_seal(z, false) : ZDS_OK;
    while (!status && o->next > k)
        if (layout_is_trained(&z->lay->spans[--o->next]))
            status = update_span(z, o->next);
    return status;
}

zds_status overlap_end(zero *z)
{
    zds_status status = stream_end(&z->overlap.pass);
    z->overlap.on = false;
    return !status && z->queue ? zero_follow(z, z->queue, z->overlap.queue) : status;
}
