/* The optimizer's calls over whole parameters: prepare, begin_step, sums_ready, and
 * step_collective, which reduces this rank's own gradients by itself. */
#include "engine/internal.h"
#include "host/error.h"

/* All trainable parameters, as far as every call of this step sees them. */
static void list_params(zds_engine *e)
{
    size_t n = 0;
    for (uint32_t i = 0; i < e->model->param_count; i++) {
        param_run *run = &e->param_runs[i];
        if (run->trainable)
            e->param_steps[n++] = (zds_param_step){.struct_size = sizeof *e->param_steps,
                                                   .param = &run->desc,
                                                   .hyper = &e->hypers[run->hyper],
                                                   .states = run->whole_states,
                                                   .master_dtype = e->set.master_dtype,
                                                   .grad_dtype = e->set.accum_dtype,
                                                   .output_dtype = e->set.param_dtype,
                                                   .has_grad = run->present};
    }
    e->param_list = (zds_param_steps){.struct_size = sizeof e->param_list,
                                      .count = n,
                                      .stride = sizeof *e->param_steps,
                                      .first = e->param_steps};
}

zds_status params_prepare(zds_engine *e, zds_error *error)
{
    if (!e->optim.prepare)
        return ZDS_OK;
    list_params(e);
    for (size_t i = 0; i < e->param_list.count; i++) {
        zds_param_step *step = &e->param_steps[i];
        const owned_piece *piece = e->param_runs[step->param->index].piece;
        step->slice_first = piece ? piece->param_first : 0;
        step->slice_count = piece ? piece->count : 0;
    }
    services_clear(&e->optim_services);
    zds_status status = e->optim.prepare(e->optim_self, &e->param_list);
    return status ? error_set(error, status, "optimizer %s: %s", e->optim_plugin->name,
                              services_error(&e->optim_services))
                  : ZDS_OK;
}

zds_status params_begin_step(zds_engine *e, const zds_step_ctx *ctx)
{
    const zds_optim_ops *ops = &e->optim;
    if (ops->begin_step || ops->sums_ready || ops->step_collective)
        list_params(e);
    if (!ops->begin_step)
        return ZDS_OK;
    zds_status status = ops->begin_step(e->optim_self, &e->param_list, ctx);
    return status ? update_failed(e, status, "begin_step") : ZDS_OK;
}

zds_status params_sums_ready(zds_engine *e, const zds_step_ctx *ctx)
{
    if (!e->optim.sums_ready)
        return ZDS_OK;
    for (size_t i = 0; i < e->param_list.count; i++)
        e->param_steps[i].sums = e->param_runs[e->param_steps[i].param->index].sums;
    zds_status status = e->optim.sums_ready(e->optim_self, &e->param_list, ctx);
    return status ? update_failed(e, status, "sums_ready") : ZDS_OK;
}

/* What this rank holds of one parameter, and its own gradient. */
static void fill_own(zds_engine *e, zds_param_step *step)
{
    const param_run *run = &e->param_runs[step->param->index];
    const layout_place *place = &e->lay->places[step->param->index];
    const owned_piece *piece = run->piece;
    step->grad = (char *)e->grads.base + place->first * zds_dtype_size(e->set.accum_dtype);
    void **states = &e->collective_states[(size_t)step->param->index * ZDS_MAX_STATES];
    for (uint32_t s = 0; s < run->needs.state_count; s++)
        states[s] = run->whole_states[s] ? run->whole_states[s] : piece ? piece->states[s] : NULL;
    step->states = states;
    if (!piece)
        return;
    step->master = piece->master;
    step->output = piece->output;
    step->slice_first = piece->param_first;
    step->slice_count = piece->count;
}

/* One rank's slice of a state goes to all. */
static zds_status spread(zds_engine *e, uint32_t param, uint32_t state, int32_t owner)
{
    const zds_state_spec *spec = &e->param_runs[param].needs.states[state];
    layout_piece piece = layout_piece_of(e->lay, e->model, param, (uint32_t)owner);
    uint64_t first = state_offset(spec, piece.param_first);
    char *at = (char *)e->param_runs[param].whole_states[state] + first;
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = 9,
                     .src = at,
                     .dst = at,
                     .count = state_bytes(spec, piece.count),
                     .src_dtype = ZDS_U8,
                     .dst_dtype = ZDS_U8,
                     .peer = owner};
    zds_event *event = NULL;
    if (!coll.count)
        return ZDS_OK;
    services_clear(&e->comm_services);
    zds_status status = e->comm.broadcast(e->comm_self, &coll, &event);
    if (status)
        return engine_comm_failed(e, status, "gathering states of each rank's own");
    return engine_wait(e, &event, "gathering states of each rank's own");
}

/* Before the first step_collective after steps by tiles: what each rank wrote in its slices. */
static zds_status gather_own_states(zds_engine *e)
{
    zds_status status = ZDS_OK;
    for (uint32_t i = 0; i < e->model->param_count; i++)
        for (uint32_t s = 0; s < e->param_runs[i].needs.state_count; s++) {
            if (e->param_runs[i].needs.states[s].scope != ZDS_SCOPE_RANK_LOCAL)
                continue;
            for (int32_t r = 0; !status && r < e->place.world_size; r++)
                status = spread(e, i, s, r);
        }
    e->own_states_cut = false;
    return status;
}

zds_status params_step_collective(zds_engine *e, const zds_step_ctx *ctx)
{
    zds_status status = e->own_states_cut ? gather_own_states(e) : ZDS_OK;
    if (status)
        return status;
    for (size_t i = 0; i < e->param_list.count; i++)
        fill_own(e, &e->param_steps[i]);
    services_clear(&e->comm_services);
    status = e->optim.step_collective(e->optim_self, &e->param_list, &e->comm, e->comm_self, ctx);
    if (!status)
        return ZDS_OK;
    if (!e->comm_services.error)
        return update_failed(e, status, "step_collective");
    engine_fail(e, status, "rank %d, optimizer %s reducing gradients by itself in step %lld: %s",
                e->place.rank, e->optim_plugin->name, (long long)ctx->step,
                services_error(&e->comm_services));
    return engine_give_up(e, status);
}
