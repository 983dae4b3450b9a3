/* The optimizer's pass over what this rank owns, window by window. A window is a few tiles; they
 * are bound to addresses when its turn comes, by the thread that steps them. */
#include <stdatomic.h>

#include "host/kernels.h"
#include "zero/parts.h"

uint64_t stream_tile(const zero *z, uint32_t param)
{
    const zds_param_needs *needs = &z->with.params[param].needs;
    if (needs->whole_tensor)
        return z->with.model->params[param].numel;
    uint64_t block = needs->granularity > 1 ? needs->granularity : 1;
    uint64_t unit = layout_multiple(LAYOUT_CHUNK, block);
    if (zero_params_rest(z)) /* each tile's output is a copy */
        unit = layout_multiple(unit, z->with.params_tier->info.alignment);
    return unit >= z->wish.tile ? unit : z->wish.tile / unit * unit;
}

static uint64_t tile_count(uint64_t tile, const piece *p, uint64_t index)
{
    uint64_t left = p->count - index * tile;
    return left < tile ? left : tile;
}

static uint32_t span_of(const zero *z, uint32_t param)
{
    return z->lay->places[param].span;
}

/* Small pieces share a window, so that they do not cost a call each; but where spans are updated
 * one by one, each begins with a load. */
uint64_t stream_number(zero *z, bool (*takes)(const zero *z, uint32_t param))
{
    uint64_t windows = 0, elements = 0, load = z->stream.ring.load ? z->stream.ring.load : 1;
    uint32_t tiles = 0; /* of the last window; 0: nothing may join it */
    for (uint32_t k = 0; k < z->stream.piece_count; k++) {
        piece *p = &z->stream.pieces[k];
        if (z->wish.overlap_step && k && span_of(z, p->param) != span_of(z, p[-1].param)) {
            windows = layout_round_up(windows, load);
            tiles = 0;
        }
        p->window = p->window_end = windows;
        if (!takes(z, p->param)) {
            tiles = 0;
            continue;
        }
        uint64_t tile = stream_tile(z, p->param), count = (p->count + tile - 1) / tile;
        bool joins =
            tiles && tiles < WINDOW_TILES && elements + tile_count(tile, p, 0) <= z->wish.tile;
        p->window -= joins;
        p->window_end = windows = p->window + count;
        bool alone = count > 1 || !joins;
        tiles = alone ? 1 : tiles + 1;
        elements = (alone ? 0 : elements) + tile_count(tile, p, count - 1);
    }
    return windows;
}

static void bind(const zero *z, const piece *p, uint64_t first, uint64_t count, zds_tile *t,
                 void **states)
{
    const zero_param *known = &z->with.params[p->param];
    *t = (zds_tile){.struct_size = sizeof *t,
                    .param = &known->desc,
                    .hyper = &z->with.hypers[known->hyper],
                    .first = p->first + first,
                    .count = count,
                    .master_dtype = z->wish.master_dtype,
                    .grad_dtype = p->grad.dtype,
                    .output_dtype = p->dtype,
                    .master = bufref_element(p->master, first),
                    .grad = bufref_element(p->grad, first),
                    .output = bufref_element(p->output, first),
                    .states = states,
                    .chunk_stride = p->chunks};
    bufref norms = bufref_of(&z->stream.norms, 0, ZDS_F64);
    if (z->stream.norm_count)
        t->sums = bufref_element(norms, z->stream.sums_at[p->param]);
    if (known->needs.tensor_norms)
        t->chunk_sums = bufref_element(norms, p->chunk_at + first / LAYOUT_CHUNK);
    for (uint32_t s = 0; s < ZDS_MAX_STATES; s++)
        states[s] = s < known->needs.state_count
                        ? bufref_at(p->states[s], state_offset(&known->needs.states[s], first))
                        : NULL;
}

/* The first piece that has tiles of window i or of a later one. */
static uint32_t first_piece(const zero *z, uint64_t i)
{
    uint32_t low = 0, high = z->stream.piece_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (z->stream.pieces[middle].window_end > i)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

void stream_bind_window(const zero *z, uint64_t i, window *w)
{
    w->count = 0;
    for (uint32_t k = first_piece(z, i); k < z->stream.piece_count; k++) {
        const piece *p = &z->stream.pieces[k];
        if (p->window > i || p->window_end <= i)
            return;
        uint64_t tile = stream_tile(z, p->param), index = i - p->window;
        bind(z, p, index * tile, tile_count(tile, p, index), &w->tiles[w->count],
             w->states[w->count]);
        w->pieces[w->count++] = p;
        if (p->window_end > i + 1)
            return;
    }
}

bufref stream_output_at(const zero *z, const window *w, size_t i)
{
    const piece *p = w->pieces[i];
    return p->away ? (bufref){&z->stream.ring.buffers, w->out_at[i], p->dtype}
                   : bufref_moved(p->output, w->tiles[i].first - p->first);
}

/* === a step === */

zds_status stream_failed(zero *z, zds_status status, const char *what, int64_t step)
{
    failure_set(z->with.failure, status, "optimizer %s failed in %s of step %lld: %s",
                z->with.optim_services->name, what, (long long)step,
                services_error(z->with.optim_services));
    return peers_give_up(z->with.peers, status); /* some tiles are updated and some are not */
}

static void run_tiles(stream_pass *p, const zds_tile *first, size_t count, int32_t thread)
{
    zds_tiles tiles = {
        .struct_size = sizeof tiles, .count = count, .stride = sizeof *first, .first = first};
    zds_step_ctx ctx = p->ctx;
    ctx.scratch = p->z->stream.scratch[thread];
    zds_status status = p->function(*p->z->with.optim_self, &tiles, &ctx);
    if (status)
        p->status = status;
}

bool stream_takes_cut(const zero *z, uint32_t param)
{
    return !z->with.params[param].needs.whole_tensor;
}

static bool takes_present(const zero *z, uint32_t param)
{
    return z->grads.present[param] && stream_takes_cut(z, param);
}

/* What is to come before the span is told of. Parameters that are updated whole are with the end of
 * the pass. */
void stream_expect(zero *z, const piece *p)
{
    if (z->grads.present[p->param])
        publish_expect(z, span_of(z, p->param),
                       takes_present(z, p->param) ? (uint32_t)(p->window_end - p->window) : 1);
}

/* A pass that began before it was known which parameters have gradients goes over all. */
static bool is_stepped(const stream_pass *p, const zds_tile *t)
{
    return !p->writes || p->z->grads.present[t->param->index];
}

/* Its tiles side by side that have gradients. */
static void run_stepped(stream_pass *p, const window *w, int32_t thread)
{
    for (size_t first = 0, end; first < w->count && !p->status; first = end + 1) {
        end = first;
        while (end < w->count && is_stepped(p, &w->tiles[end]))
            end++;
        if (end > first)
            run_tiles(p, &w->tiles[first], end - first, thread);
    }
}

static void tell_stepped(stream_pass *p, const window *w)
{
    for (size_t k = 0; p->writes && !p->status && k < w->count; k++)
        if (is_stepped(p, &w->tiles[k]))
            publish_wrote(p->z, span_of(p->z, w->tiles[k].param->index), 1);
}

static void run_window(void *arg, size_t i, int32_t thread)
{
    stream_pass *p = arg;
    window w;
    stream_bind_window(p->z, p->at + i, &w);
    run_stepped(p, &w, thread);
    tell_stepped(p, &w);
}

/* An optimizer that writes no fp32 output leaves the copy to the host. */
static void hide_outputs(window *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->tiles[i].output_dtype == ZDS_F32)
            w->tiles[i].output = NULL;
}

static zds_status copy_outputs(const stream_pass *pass, const window *w)
{
    zero *z = pass->z;
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && i < w->count; i++) {
        const piece *p = w->pieces[i];
        const zds_tile *t = &w->tiles[i];
        uint64_t first = t->first - p->first;
        bufref from = p->rests ? (bufref){&z->stream.ring.buffers, w->at[i], z->wish.master_dtype}
                               : bufref_moved(p->master, first);
        if (!t->output && is_stepped(pass, t))
            status = zero_convert(z, stream_output_at(z, w, i), from, t->count);
    }
    return status;
}

/* The same by a thread, which has both before it. */
static void copy_outputs_here(const stream_pass *p, const window *w)
{
    for (size_t i = 0; i < w->count; i++) {
        const zds_tile *t = &w->tiles[i];
        bufref to = stream_output_at(p->z, w, i);
        if (!t->output && is_stepped(p, t))
            kernel_convert(bufref_at(to, 0), to.dtype, t->master, t->master_dtype, t->count);
    }
}

static void run_loaded(void *arg, size_t j, int32_t thread)
{
    stream_pass *p = arg;
    window w;
    records_bind(p->z, p->at / p->z->stream.ring.load, (uint32_t)j, &w);
    int64_t spoilt = records_check(p->z, &w);
    if (spoilt >= 0)
        p->spoilt = spoilt;
    if (p->spoilt >= 0 || p->status)
        return;
    if (p->copies)
        hide_outputs(&w);
    run_stepped(p, &w, thread);
    if (p->status)
        return;
    if (p->copies)
        copy_outputs_here(p, &w);
    records_seal(p->z, &w);
    tell_stepped(p, &w);
}

/* One window, in the order of the device's queue. */
static zds_status run_on_device(stream_pass *p, window *w)
{
    if (p->copies)
        hide_outputs(w);
    run_stepped(p, w, 0);
    return p->copies && !p->status ? copy_outputs(p, w) : ZDS_OK;
}

static zds_status run_load(stream_pass *p, uint64_t load)
{
    zero *z = p->z;
    window w;
    zds_status status = records_await(z, load);
    if (status)
        return status;
    if (!zero_is_here(z)) {
        records_bind(z, load, 0, &w);
        return run_on_device(p, &w);
    }
    pool_run(z->with.threads, records_windows(z, load), run_loaded, p);
    return p->spoilt >= 0 ? records_spoilt(z, (uint32_t)p->spoilt) : ZDS_OK;
}

/* Loads of records are read ahead of the one that is stepped, and written behind it. */
static zds_status read_ahead(stream_pass *p)
{
    zero *z = p->z;
    const record_ring *r = &z->stream.ring;
    uint64_t loads = records_loads(z, p->windows),
             end = p->at / r->load + (z->wish.reads_ahead ? r->slot_count : 1);
    zds_status status = ZDS_OK;
    for (; !status && p->read < loads && p->read < end; p->read++)
        status = records_read(z, p->read, p->windows, false);
    return status;
}

static zds_status run_records(stream_pass *p, uint64_t end)
{
    zero *z = p->z;
    zds_status status = ZDS_OK;
    while (!status && p->at < end) {
        uint64_t load = p->at / z->stream.ring.load;
        status = run_load(p, load);
        if (p->status)
            return ZDS_OK;
        if (!status)
            status = records_write(z, load);
        p->at += z->stream.ring.load;
        if (!status)
            status = read_ahead(p);
    }
    return !status && p->at >= p->windows ? records_end(z) : status;
}

zds_status stream_open(zero *z, stream_pass *p, const zds_step_ctx *ctx, pass_takes takes)
{
    p->z = z;
    p->ctx = *ctx;
    p->at = p->read = 0;
    p->windows = stream_number(z, takes);
    p->spoilt = -1;
    p->copies = (zero_rests(z) || zero_params_rest(z)) && p->writes &&
                !(z->with.optim->flags & ZDS_OPTIM_F32_OUTPUT);
    zds_status status = z->stream.ring.load ? records_begin(z) : ZDS_OK;
    return !status && z->stream.ring.load ? read_ahead(p) : status;
}

zds_status stream_advance(stream_pass *p, uint64_t end)
{
    zero *z = p->z;
    zds_status status = ZDS_OK;
    if (z->stream.ring.load)
        status = run_records(p, end);
    else if (zero_is_here(z))
        pool_run(z->with.threads, end - p->at, run_window, p);
    for (; !zero_is_here(z) && !status && !p->status && p->at < end; p->at++) {
        window w;
        stream_bind_window(z, p->at, &w);
        status = run_on_device(p, &w);
    }
    p->at = p->at > end ? p->at : end; /* a load is stepped whole */
    return p->status ? stream_failed(z, p->status, p->writes ? "step" : "norms", p->ctx.step)
                     : status;
}

/* Parameters that are updated whole: all of this rank's in one call. */
static void bind_whole(zero *z)
{
    stream_part *t = &z->stream;
    t->whole_count = 0;
    for (uint32_t k = 0; k < t->piece_count; k++) {
        const piece *p = &t->pieces[k];
        if (!z->grads.present[p->param] || stream_takes_cut(z, p->param))
            continue;
        bind(z, p, 0, p->count, &t->whole_tiles[t->whole_count],
             t->whole_tile_states[t->whole_count]);
        t->whole_count++;
    }
}

zds_status stream_end(stream_pass *p)
{
    zero *z = p->z;
    bind_whole(z);
    if (z->stream.whole_count)
        run_tiles(p, z->stream.whole_tiles, z->stream.whole_count, 0);
    z->stream.own_states_cut = z->wish.stage >= 1 && !is_alone(z);
    return p->status ? stream_failed(z, p->status, "step", p->ctx.step) : ZDS_OK;
}

/* The pass over all tiles of this rank, and one before it where the optimizer wants norms. */
static zds_status step_tiles(zero *z, const zds_step_ctx *ctx)
{
    zds_status status = ZDS_OK;
    if (z->stream.norm_count) {
        stream_pass p = {.function = z->with.optim->norms};
        status = stream_open(z, &p, ctx, takes_present);
        if (!status)
            status = stream_advance(&p, p.windows);
        if (!status)
            status = norm_sum_tensors(z);
        if (!status)
            status = stream_sums_ready(z, ctx);
    }
    stream_pass p = {.function = z->with.optim->step, .writes = true};
    if (!status)
        status = stream_open(z, &p, ctx, takes_present);
    for (uint32_t k = 0; !status && k < z->stream.piece_count; k++)
        stream_expect(z, &z->stream.pieces[k]);
    if (!status)
        status = stream_advance(&p, p.windows);
    return status ? status : stream_end(&p);
}

zds_step_ctx stream_ctx(const zero *z, int64_t step, double grad_scale)
{
    return (zds_step_ctx){.struct_size = sizeof(zds_step_ctx),
                          .step = step,
                          .grad_scale = grad_scale,
                          .seed = z->wish.seed,
                          .scratch = z->stream.scratch[0],
                          .scratch_bytes = z->with.optim->scratch_bytes,
                          .stream = z->queue};
}

static zds_status update(zero *z, const zds_step_ctx *ctx)
{
    services_clear(z->with.optim_services);
    z->stream.replaced = true;
    zds_status status = publish_begin(z);
    if (!status)
        status = params_seal(z, false);
    if (!status)
        status = stream_begin_step(z, ctx);
    if (status)
        return status;
    return z->local ? stream_collective(z, ctx) : step_tiles(z, ctx);
}

zds_status zero_update(zero *z, int64_t step, double grad_scale)
{
    const zds_optim_ops *ops = z->with.optim;
    const zds_step_ctx ctx = stream_ctx(z, step, grad_scale);
    zds_status status = z->overlap.on ? overlap_end(z) : update(z, &ctx);
    if (status)
        return status;
    if (ops->end_step && (status = ops->end_step(*z->with.optim_self, &ctx)) != ZDS_OK)
        return stream_failed(z, status, "end_step", step);
    status = params_seal(z, true);
    if (!status && zero_params_rest(z)) /* from where they are gathered */
        status = records_settle(z);
    return status ? status : publish_all(z);
}
