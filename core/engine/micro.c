/* Micro steps as the caller sees them: begin, acquire, release, gradients ready. */
#include <math.h>
#include <string.h>

#include "engine/internal.h"
#include "host/sized.h"

/* Nobody here uses the module any more. */
static zds_status may_be_updated(zds_engine *e, uint32_t module)
{
    if (!engine_updates(e) || !e->holds[module].forward)
        return ZDS_OK;
    return engine_fail(e, ZDS_ERR_INVALID,
                       "module %s is acquired for forward when its gradients are due in the "
                       "boundary micro step: with zds.overlap_step it is updated from then on; "
                       "release it first (zds_release)",
                       e->model->modules[module].name);
}

zds_status engine_pass_over(zds_engine *e, uint32_t module)
{
    zds_status status = ZDS_OK;
    e->lowest = module < e->lowest ? module : e->lowest;
    while (!status && e->cursor > module && !e->holds[e->cursor - 1].backward) {
        status = may_be_updated(e, e->cursor - 1);
        if (!status)
            status = zero_module_done(e->zero, --e->cursor);
    }
    return status;
}

zds_status engine_all_reported(zds_engine *e, const char *call)
{
    if (!e->backwards)
        return ZDS_OK;
    uint32_t m = e->model->module_count;
    while (!e->holds[--m].backward)
        ;
    return engine_fail(e, ZDS_ERR_INVALID,
                       "%s while module %s is acquired for backward%s: report it by zds_grad_ready",
                       call, e->model->modules[m].name, e->backwards > 1 ? ", and more are" : "");
}

static zds_status let_go_forwards(zds_engine *e, uint32_t module)
{
    module_hold *hold = &e->holds[module];
    zds_status status = ZDS_OK;
    for (; !status && hold->forward; hold->forward--, e->forwards--)
        status = zero_release(e->zero, module);
    return status;
}

zds_status engine_close_forwards(zds_engine *e, const char *call)
{
    zds_status status = ZDS_OK;
    for (uint32_t m = 0; !status && e->forwards && m < e->model->module_count; m++) {
        const module_hold *hold = &e->holds[m];
        if (hold->forward && e->set.strict)
            return engine_fail(e, ZDS_ERR_INVALID,
                               "%s while module %s is acquired for forward, %u times more than it "
                               "was released: release it%s",
                               call, e->model->modules[m].name, hold->forward,
                               e->set.stage == 3 ? "" : ", or set zds.strict to false");
        status = let_go_forwards(e, m);
    }
    return status;
}

/* Whether this optimizer step's gradients are averaged, or left to the optimizer. */
static zds_status ask_reduction(zds_engine *e)
{
    int32_t mode = e->optim.reduction_mode ? e->optim.reduction_mode(e->optim_self, e->steps + 1)
                                           : ZDS_REDUCE_MEAN;
    if (mode != ZDS_REDUCE_MEAN && mode != ZDS_REDUCE_LOCAL)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "optimizer %s wants gradients of step %lld reduced in mode %d, which "
                           "does not exist",
                           e->optim_plugin->name, (long long)e->steps + 1, mode);
    e->local = mode == ZDS_REDUCE_LOCAL;
    return ZDS_OK;
}

/* More than one micro step is added up, which the config did not foresee: in fp32 from now on, as
 * where it does, whatever made it so (zds_set_train_batch_size, zds_no_sync, ZDS_BOUNDARY_NO). */
static zds_status foresee_accumulation(zds_engine *e)
{
    zds_dtype dtype = e->set.accum_is_chosen ? e->accum_dtype : ZDS_F32;
    if (e->boundary)
        return ZDS_OK;
    if (dtype != e->accum_dtype && !(e->optim.grad_dtypes & ZDS_DTYPE_BIT(dtype)))
        return engine_fail(e, ZDS_ERR_UNSUPPORTED,
                           "a micro step that is no boundary: gradients are added up in fp32, "
                           "which optimizer %s does not take; set data_types.grad_accum_dtype to "
                           "what it takes",
                           e->optim_plugin->name);
    zds_status status = zero_accumulate_in(e->zero, dtype);
    if (!status)
        e->accum_dtype = dtype;
    return status;
}

/* What zds_step does elsewhere. */
static zds_status end_unsynced(zds_engine *e, const char *call)
{
    zds_status status = engine_close_forwards(e, call);
    if (status)
        return status;
    e->in_micro = false;
    e->unsynced++;
    return engine_pass_over(e, 0);
}

zds_status zds_micro_begin(zds_engine *e, int32_t boundary)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (!e->values_set)
        return engine_fail(
            e, ZDS_ERR_INVALID,
            "zds_micro_begin before zds_set_values: the parameters have no values yet");
    if (e->in_micro && !e->no_sync)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_micro_begin within a micro step: call zds_step first");
    if (boundary == ZDS_BOUNDARY_AUTO && !e->set.managed_accumulation && !e->no_sync)
        return engine_fail(
            e, ZDS_ERR_INVALID,
            "managed_gradient_accumulation is false, so the program says which micro step is a "
            "boundary: pass ZDS_BOUNDARY_NO or ZDS_BOUNDARY_YES to zds_micro_begin");
    if (boundary < ZDS_BOUNDARY_AUTO || boundary > ZDS_BOUNDARY_YES)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_micro_begin: %d is not one of ZDS_BOUNDARY_...",
                           boundary);
    status = engine_all_reported(e, "zds_micro_begin");
    if (!status && e->in_micro)
        status = end_unsynced(e, "zds_micro_begin");
    if (status)
        return status;
    bool first = !engine_in_step(e);
    if (first && (status = ask_reduction(e)) != ZDS_OK)
        return status;
    e->boundary = boundary == ZDS_BOUNDARY_YES ||
                  (boundary == ZDS_BOUNDARY_AUTO && e->micro + 1 >= e->accumulation);
    if (e->no_sync)
        e->boundary = false;
    if (first && (status = foresee_accumulation(e)) != ZDS_OK)
        return status;
    e->in_micro = true;
    e->phase_start = engine_now_ms();
    e->in_backward = e->abandoned = false;
    e->cursor = e->lowest = e->model->module_count;
    zero_micro_begin(e->zero, e->boundary, e->local);
    return engine_updates(e) ? zero_update_begin(e->zero, e->steps + 1, 1 / e->scale.value)
                             : ZDS_OK;
}

static zds_status known_module(zds_engine *e, uint32_t module)
{
    return module < e->model->module_count
               ? ZDS_OK
               : engine_fail(e, ZDS_ERR_INVALID, "module %u: the model has %u", module,
                             e->model->module_count);
}

static zds_status acquire_backward(zds_engine *e, uint32_t module, const zds_stream *stream)
{
    const char *name = e->model->modules[module].name;
    if (!e->in_micro)
        return engine_fail(
            e, ZDS_ERR_INVALID,
            "module %s acquired for backward outside a micro step: call zds_micro_begin first",
            name);
    if (e->finished || e->abandoned)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "module %s acquired for backward after %s: the backward of this micro "
                           "step is over, %s is next",
                           name, e->finished ? "zds_finish" : "zds_micro_abandon",
                           e->finished ? "zds_step or zds_discard" : "zds_step");
    if (module >= e->lowest)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "module %s acquired for backward after module %s: backward goes from "
                           "the last declared module to "
                           "the first, once each in a micro step",
                           name, e->model->modules[e->lowest].name);
    const uint32_t lowest = e->lowest;
    const double now = engine_now_ms();
    zds_status status = engine_pass_over(e, module + 1);
    for (uint32_t m = lowest < e->cursor ? lowest : e->cursor; !status && m-- > module + 1;)
        status = zero_pass_over(e->zero, m); /* what those that are held keep from being done */
    if (!status)
        status = zero_acquire(e->zero, module, ZDS_BACKWARD, stream);
    if (status) { /* what is not done with may still come */
        e->lowest = lowest < e->cursor ? lowest : e->cursor;
        return status;
    }
    if (!e->in_backward) {
        e->now.forward_ms += now - e->phase_start;
        e->phase_start = now;
        e->in_backward = true;
    }
    e->holds[module].backward = true;
    e->backwards++;
    e->lowest = module;
    return ZDS_OK;
}

/* To recompute within the module's backward, the same is seen. */
static zds_status acquire_forward(zds_engine *e, uint32_t module, const zds_stream *stream)
{
    module_hold *hold = &e->holds[module];
    zds_status status = ZDS_OK;
    if (engine_updates(e) && !hold->backward && module >= e->lowest)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "module %s acquired after its gradients were due in the boundary micro "
                           "step: with zds.overlap_step it is updated from then on; acquire it "
                           "after zds_step",
                           e->model->modules[module].name);
    if (hold->backward)
        zero_hold_module(e->zero, module);
    else
        status = zero_acquire(e->zero, module, ZDS_FORWARD, stream);
    hold->forward += !status;
    e->forwards += !status;
    return status;
}

/* On the host nothing is put on a stream, and a device has its own. */
static zds_status check_stream(zds_engine *e, const char *call, const zds_stream *stream)
{
    zds_device ours = e->tier->info.device;
    if (stream && !sized_reaches(stream, ZDS_STREAM_1_0))
        return engine_fail(e, ZDS_ERR_INVALID, "%s: " SIZED_TOO_SHORT, call, "zds_stream",
                           stream->struct_size, ZDS_STREAM_1_0);
    if (!stream || (stream->device.space == ours.space && stream->device.ordinal == ours.ordinal))
        return ZDS_OK;
    return engine_fail(e, ZDS_ERR_UNSUPPORTED,
                       "%s: a stream of device %d of space %d, but this engine's parameters are on "
                       "device %d of space %d (zds/types.h); %s",
                       call, stream->device.ordinal, stream->device.space, ours.ordinal, ours.space,
                       e->tier->in_host ? "pass NULL: in the host's memory what was computed is "
                                          "there"
                                        : "pass one of that");
}

static zds_status check_call(zds_engine *e, const char *call, uint32_t module,
                             const zds_stream *stream)
{
    zds_status status = engine_usable(e);
    if (!status)
        status = known_module(e, module);
    return status ? status : check_stream(e, call, stream);
}

zds_status zds_acquire(zds_engine *e, uint32_t module, int32_t pass, const zds_stream *stream,
                       zds_view *view)
{
    zds_status status = check_call(e, "zds_acquire", module, stream);
    if (status)
        return status;
    if (!view)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_acquire: view is NULL");
    if (pass != ZDS_FORWARD && pass != ZDS_BACKWARD)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_acquire: pass %d is neither ZDS_FORWARD nor ZDS_BACKWARD", pass);
    if (!e->values_set)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_acquire before zds_set_values: the parameters have no values yet");
    status = pass == ZDS_BACKWARD ? acquire_backward(e, module, stream)
                                  : acquire_forward(e, module, stream);
    if (status)
        return status;
    *view = (zds_view){.stride = sizeof *view->slots};
    view->slots = zero_slots(e->zero, module, &view->count);
    return ZDS_OK;
}

zds_status zds_release(zds_engine *e, uint32_t module, const zds_stream *stream)
{
    zds_status status = check_call(e, "zds_release", module, stream);
    if (status)
        return status;
    if (!e->holds[module].forward)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_release: module %s is not acquired for forward, or was released "
                           "at the end of a micro step%s",
                           e->model->modules[module].name,
                           e->holds[module].backward
                               ? "; what is acquired for backward ends with zds_grad_ready"
                               : "");
    status = zero_used(e->zero, stream);
    if (!status)
        status = zero_release(e->zero, module);
    if (status)
        return status;
    e->holds[module].forward--;
    e->forwards--;
    return peers_progress(&e->comm.peers);
}

zds_status zds_grad_none(zds_engine *e, uint32_t module, uint32_t slot)
{
    zds_status status = check_call(e, "zds_grad_none", module, NULL);
    if (status)
        return status;
    size_t count;
    zero_slots(e->zero, module, &count);
    if (!e->holds[module].backward || slot >= count)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_grad_none: slot %u of module %s is not acquired for backward", slot,
                           e->model->modules[module].name);
    return zero_grad_none(e->zero, module, slot);
}

static zds_status let_go_backward(zds_engine *e, uint32_t module)
{
    e->holds[module].backward = false;
    e->backwards--;
    return zero_release(e->zero, module);
}

zds_status zds_grad_ready(zds_engine *e, uint32_t module, const zds_stream *stream)
{
    double start = engine_now_ms();
    zds_status status = check_call(e, "zds_grad_ready", module, stream);
    if (status)
        return status;
    if (!e->holds[module].backward)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_grad_ready: module %s is not acquired for backward",
                           e->model->modules[module].name);
    status = may_be_updated(e, module);
    if (!status)
        status = zero_used(e->zero, stream);
    if (status)
        return status;
    zero_grads_written(e->zero, module);
    status = let_go_backward(e, module);
    if (!status)
        status = engine_pass_over(e, e->lowest);
    if (!status)
        status = peers_progress(&e->comm.peers);
    e->now.grad_ready_ms += engine_now_ms() - start;
    return status;
}

/* In what the others gather with this rank, and in the reductions in between. */
static zds_status take_part(zds_engine *e)
{
    uint32_t module;
    int32_t pass;
    zds_status status = engine_pass_over(e, e->lowest);
    while (!status && zero_next(e->zero, &module, &pass)) {
        if (pass == ZDS_BACKWARD) /* what the others have passed over they reduce before */
            status = engine_pass_over(e, module + 1);
        if (!status)
            status = zero_take_part(e->zero, module, pass);
        if (!status && pass == ZDS_BACKWARD)
            status = engine_pass_over(e, module);
    }
    return status ? status : engine_pass_over(e, 0);
}

zds_status zds_micro_abandon(zds_engine *e)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (!e->in_micro || e->no_sync || e->finished)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_micro_abandon %s",
                           !e->in_micro ? "outside a micro step"
                           : e->no_sync ? "between zds_no_sync(true) and (false)"
                                        : "after zds_finish: call zds_discard");
    if (e->set.zero.overlap_step && e->in_backward)
        return engine_fail(e, ZDS_ERR_UNSUPPORTED,
                           "zds_micro_abandon in backward with zds.overlap_step: a step whose "
                           "updates may have begun cannot be dropped; end all ranks by zds_fail, "
                           "or set the key to false");
    if (!zero_foretold(e->zero))
        return engine_fail(e, ZDS_ERR_UNSUPPORTED,
                           "zds_micro_abandon at zero_optimization.stage 3: the other ranks gather "
                           "modules with this one, which does not know their order from the micro "
                           "step before; report zeros, end all ranks by zds_fail, or use stage 2");
    e->spoilt |= e->in_backward;
    e->abandoned = true;
    for (uint32_t m = 0; !status && m < e->model->module_count; m++) {
        status = let_go_forwards(e, m);
        if (status || !e->holds[m].backward)
            continue;
        zero_grads_spoilt(e->zero, m);
        status = let_go_backward(e, m);
    }
    return status ? status : take_part(e);
}

zds_status zds_no_sync(zds_engine *e, bool on)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (e->set.stage >= 2)
        return engine_fail(
            e, ZDS_ERR_UNSUPPORTED,
            "zds_no_sync at zero_optimization.stage %d: gradients are reduced in every micro step, "
            "since no rank holds all of them; use stage 0 or 1",
            e->set.stage);
    if (e->in_micro && !e->no_sync)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_no_sync within a micro step");
    status = engine_all_reported(e, "zds_no_sync");
    if (!status && !on && e->in_micro)
        status = end_unsynced(e, "zds_no_sync");
    if (!status)
        e->no_sync = on;
    return status;
}

zds_status zds_set_train_batch_size(zds_engine *e, int64_t size)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    int64_t unit = e->set.micro_batch * e->launch.world_size;
    if (engine_in_step(e))
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_set_train_batch_size between micro steps of one optimizer step: "
                           "call it after a boundary");
    if (size <= 0 || size % unit)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "train batch size %lld is not a multiple of micro batch %lld x %d ranks",
                           (long long)size, (long long)e->set.micro_batch, e->launch.world_size);
    if (size / unit > INT32_MAX)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "train batch size %lld takes %lld micro steps of %lld x %d ranks; %d is "
                           "the most",
                           (long long)size, (long long)(size / unit), (long long)e->set.micro_batch,
                           e->launch.world_size, INT32_MAX);
    e->accumulation = size / unit;
    return ZDS_OK;
}
