/* The optimizer's calls over whole parameters: begin_step, sums_ready, and step_collective, which
 * reduces this rank's own gradients by itself. */
#include "engine/internal.h"

/* All trainable parameters, as far as every call sees them. */
static zds_param_steps list_params(zds_engine *e)
{
    size_t n = 0;
    for (uint32_t i = 0; i < e->model->param_count; i++) {
        param_run *run = &e->param_runs[i];
        if (run->trainable)
            e->param_steps[n++] = (zds_param_step){.struct_size = sizeof *e->param_steps,
                                                   .param = &run->desc,
                                                   .hyper = &e->hypers[run->hyper],
                                                   .states = run->whole_states,
                                                   .master_dtype = ZDS_F32,
                                                   .grad_dtype = e->set.accum_dtype,
                                                   .output_dtype = e->set.param_dtype,
                                                   .has_grad = run->present};
    }
    return (zds_param_steps){.struct_size = sizeof(zds_param_steps),
                             .count = n,
                             .stride = sizeof *e->param_steps,
                             .first = e->param_steps};
}

zds_status params_begin_step(zds_engine *e, const zds_step_ctx *ctx)
{
    if (!e->optim.begin_step)
        return ZDS_OK;
    zds_param_steps params = list_params(e);
    zds_status status = e->optim.begin_step(e->optim_self, &params, ctx);
    return status ? update_failed(e, status, "begin_step") : ZDS_OK;
}

zds_status params_sums_ready(zds_engine *e, const zds_step_ctx *ctx)
{
    if (!e->optim.sums_ready)
        return ZDS_OK;
    zds_param_steps params = list_params(e);
    for (size_t i = 0; i < params.count; i++)
        e->param_steps[i].sums = e->param_runs[e->param_steps[i].param->index].sums;
    zds_status status = e->optim.sums_ready(e->optim_self, &params, ctx);
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

zds_status params_step_collective(zds_engine *e, const zds_step_ctx *ctx)
{
    zds_param_steps params = list_params(e);
    for (size_t i = 0; i < params.count; i++)
        fill_own(e, &e->param_steps[i]);
    services_clear(&e->comm_services);
    zds_status status =
        e->optim.step_collective(e->optim_self, &params, &e->comm, e->comm_self, ctx);
    if (!status)
        return ZDS_OK;
    if (!e->comm_services.error)
        return update_failed(e, status, "step_collective");
    engine_fail(e, status, "rank %d, optimizer %s reducing gradients by itself in step %lld: %s",
                e->place.rank, e->optim_plugin->name, (long long)ctx->step,
                services_error(&e->comm_services));
    return engine_give_up(e, status);
}
