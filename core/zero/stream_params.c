/* The optimizer's calls over whole parameters: prepare, begin_step, sums_ready, and
 * step_collective, which reduces this rank's own gradients by itself. */
#include "zero/parts.h"

/* All trainable parameters, as far as every call of this step sees them. */
void stream_list(zero *z)
{
    stream_part *t = &z->stream;
    size_t n = 0;
    for (uint32_t i = 0; i < z->with.model->param_count; i++) {
        const zero_param *known = &z->with.params[i];
        const layout_span *span = &z->lay->spans[z->lay->places[i].span];
        if (known->trainable)
            t->steps[n++] = (zds_param_step){.struct_size = sizeof *t->steps,
                                             .param = &known->desc,
                                             .hyper = &z->with.hypers[known->hyper],
                                             .states = &t->whole_states[(size_t)i * ZDS_MAX_STATES],
                                             .master_dtype = z->wish.master_dtype,
                                             .grad_dtype = zero_accum_dtype(z, span),
                                             .output_dtype = zero_dtype(z, span),
                                             .has_grad = z->grads.present[i]};
    }
    t->listed = (zds_param_steps){
        .struct_size = sizeof t->listed, .count = n, .stride = sizeof *t->steps, .first = t->steps};
}

zds_status zero_prepare(zero *z, zds_error *error)
{
    stream_part *t = &z->stream;
    if (!z->with.optim->prepare)
        return ZDS_OK;
    stream_list(z);
    for (size_t i = 0; i < t->listed.count; i++) {
        const piece *own = t->piece_of[t->steps[i].param->index];
        t->steps[i].part_first = own ? own->first : 0;
        t->steps[i].part_count = own ? own->count : 0;
    }
    services_clear(z->with.optim_services);
    zds_status status = z->with.optim->prepare(*z->with.optim_self, &t->listed);
    return status ? error_set(error, status, "optimizer %s: %s", z->with.optim_services->name,
                              services_error(z->with.optim_services))
                  : ZDS_OK;
}

zds_status stream_begin_step(zero *z, const zds_step_ctx *ctx)
{
    const zds_optim_ops *ops = z->with.optim;
    if (ops->begin_step || ops->sums_ready || ops->step_collective)
        stream_list(z);
    if (!ops->begin_step)
        return ZDS_OK;
    zds_status status = ops->begin_step(*z->with.optim_self, &z->stream.listed, ctx);
    return status ? stream_failed(z, status, "begin_step", ctx->step) : ZDS_OK;
}

zds_status stream_sums_ready(zero *z, const zds_step_ctx *ctx)
{
    stream_part *t = &z->stream;
    if (!z->with.optim->sums_ready)
        return ZDS_OK;
    bufref sums = bufref_of(&t->norms, 0, ZDS_F64); /* where the optimizer computes */
    for (size_t i = 0; i < t->listed.count; i++)
        t->steps[i].sums = bufref_element(sums, t->sums_at[t->steps[i].param->index]);
    zds_status status = z->with.optim->sums_ready(*z->with.optim_self, &t->listed, ctx);
    return status ? stream_failed(z, status, "sums_ready", ctx->step) : ZDS_OK;
}

/* What this rank holds of one parameter, and its own gradient. */
static void fill_own(zero *z, zds_param_step *step)
{
    stream_part *t = &z->stream;
    uint32_t param = step->param->index;
    const piece *own = t->piece_of[param];
    step->grad = bufref_at(grads_whole(z, param), 0);
    void **states = &t->collective_states[(size_t)param * ZDS_MAX_STATES];
    for (uint32_t s = 0; s < z->with.params[param].needs.state_count; s++) {
        void *whole = t->whole_states[(size_t)param * ZDS_MAX_STATES + s];
        states[s] = whole ? whole : own ? bufref_at(own->states[s], 0) : NULL;
    }
    step->states = states;
    if (!own)
        return;
    step->master = bufref_at(own->master, 0);
    step->output = bufref_at(own->output, 0);
    step->part_first = own->first;
    step->part_count = own->count;
}

/* One rank's part of a state goes to all. */
static zds_status spread(zero *z, uint32_t param, uint32_t state, int32_t owner)
{
    static const char gathering[] = "gathering states of each rank's own";
    peers *p = z->with.peers;
    const zds_state_spec *spec = &z->with.params[param].needs.states[state];
    layout_piece own = layout_piece_of(z->lay, z->with.model, param, (uint32_t)owner);
    void *at = bufref_at(stream_whole_state(z, param, state), state_offset(spec, own.param_first));
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = 9,
                     .what = gathering,
                     .src = at,
                     .dst = at,
                     .count = state_bytes(spec, own.count),
                     .src_dtype = ZDS_U8,
                     .dst_dtype = ZDS_U8,
                     .peer = owner,
                     .stream = z->queue};
    return coll.count ? peers_call(p, p->ops->broadcast, &coll, gathering) : ZDS_OK;
}

zds_status stream_gather_own(zero *z)
{
    zds_status status = ZDS_OK;
    for (uint32_t i = 0; z->stream.own_states_cut && i < z->with.model->param_count; i++)
        for (uint32_t s = 0; s < z->with.params[i].needs.state_count; s++) {
            if (z->with.params[i].needs.states[s].scope != ZDS_SCOPE_RANK_LOCAL)
                continue;
            for (int32_t r = 0; !status && r < z->with.peers->world_size; r++)
                status = spread(z, i, s, r);
        }
    z->stream.own_states_cut = false;
    return status;
}

zds_status stream_collective(zero *z, const zds_step_ctx *ctx)
{
    stream_part *t = &z->stream;
    peers *p = z->with.peers;
    zds_status status = stream_gather_own(z);
    if (status)
        return status;
    for (size_t i = 0; i < t->listed.count; i++)
        fill_own(z, &t->steps[i]);
    status = peers_enter(p, "the optimizer's own reductions");
    if (status)
        return status;
    status = z->with.optim->step_collective(*z->with.optim_self, &t->listed, p->ops, p->self, ctx);
    bool between_ranks = status && p->services->error;
    if (between_ranks)
        failure_set(z->with.failure, status,
                    "rank %d, optimizer %s reducing gradients by itself in step %lld: %s", p->rank,
                    z->with.optim_services->name, (long long)ctx->step,
                    services_error(p->services));
    peers_leave(p, ZDS_OK, NULL);
    if (between_ranks)
        return peers_give_up(p, status);
    return status ? stream_failed(z, status, "step_collective", ctx->step) : ZDS_OK;
}
