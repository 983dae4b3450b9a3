/* The optimizer's pass over what this rank owns, window by window. A window is a few tiles; they
 * are bound to addresses when its turn comes, by the thread that steps them. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "host/kernels.h"
#include "zero/parts.h"

typedef zds_status (*step_function)(void *, const zds_tiles *, const zds_step_ctx *);

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

/* Numbers the windows of this step. Small pieces share one, so that they do not cost a call each.
 * `takes`: which pieces have tiles. Returns how many windows there are. */
static uint64_t number_windows(zero *z, bool (*takes)(const zero *z, uint32_t param))
{
    uint64_t windows = 0, elements = 0;
    uint32_t tiles = 0; /* of the last window; 0: nothing may join it */
    for (uint32_t k = 0; k < z->stream.piece_count; k++) {
        piece *p = &z->stream.pieces[k];
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

/* === pages === */

enum { PAGE = 4096, TOUCHED = 2 << 20 };

/* Fresh bytes, which are zero. */
static void touch(void *at, uint64_t bytes)
{
    for (uint64_t i = 0; at && i < bytes; i += PAGE)
        ((volatile char *)at)[i] = 0;
}

static bool takes_cut(const zero *z, uint32_t param)
{
    return !z->with.params[param].needs.whole_tensor;
}

static void touch_window(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const zero *z = arg;
    window w;
    stream_bind_window(z, i, &w);
    for (size_t k = 0; k < w.count; k++) {
        const zds_tile *t = &w.tiles[k];
        const zds_param_needs *needs = &z->with.params[t->param->index].needs;
        touch(t->master, t->count * zds_dtype_size(t->master_dtype));
        touch(t->output, t->count * zds_dtype_size(t->output_dtype));
        touch((void *)(uintptr_t)t->grad, t->count * zds_dtype_size(t->grad_dtype));
        for (uint32_t s = 0; s < needs->state_count; s++)
            touch(t->states[s], state_bytes(&needs->states[s], t->count));
    }
}

static void touch_run(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const zds_block *b = arg;
    uint64_t first = (uint64_t)i * TOUCHED, left = b->bytes - first;
    touch((char *)b->pointer + first, left < TOUCHED ? left : TOUCHED);
}

/* Memory is placed by who writes it first: what a tile has, by the thread that will step it. All of
 * it here, so that no step pays for it. */
void zero_touch(zero *z)
{
    const grads_part *g = &z->grads;
    const slab *all[] = {z->params.pages == PAGES_NODE ? NULL : &z->params.trained.slab,
                         &g->full.slab,
                         &g->shard.slab,
                         &g->buffers.slab,
                         &g->travel.slab,
                         &z->stream.master,
                         &z->stream.states,
                         &z->stream.whole.slab,
                         &z->live.memory.slab};
    if (z->with.tier->planned || !zero_is_here(z))
        return;
    pool_run(z->with.threads, number_windows(z, takes_cut), touch_window, z);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] && all[i]->block.pointer) {
            zds_block block = all[i]->block;
            pool_run(z->with.threads, (block.bytes + TOUCHED - 1) / TOUCHED, touch_run, &block);
        }
}

/* === initial values === */

static bool takes_all(const zero *z, uint32_t param)
{
    (void)z, (void)param;
    return true;
}

static bool starts_as_param(const zds_state_spec *spec)
{
    return spec->kind == ZDS_STATE_ELEMENT && spec->starts == ZDS_STARTS_AS_PARAM;
}

/* Other than as the zeros that memory is. */
static bool starts_as_value(const zds_state_spec *spec)
{
    return spec->kind == ZDS_STATE_ELEMENT && spec->starts == ZDS_STARTS_AS_VALUE &&
           spec->initial != 0;
}

static zds_status start_state(zero *z, const zds_state_spec *spec, bufref state, bufref param,
                              uint64_t count)
{
    if (starts_as_param(spec))
        return zero_convert(z, state, param, count);
    return starts_as_value(spec) ? zero_fill(z, state, spec->initial, count) : ZDS_OK;
}

static void start_tiles(const zero *z, const window *w)
{
    for (size_t k = 0; k < w->count; k++) {
        const zds_tile *t = &w->tiles[k];
        const zds_param_needs *needs = &z->with.params[t->param->index].needs;
        if (t->output)
            kernel_convert(t->master, t->master_dtype, t->output, t->output_dtype, t->count);
        for (uint32_t s = 0; s < needs->state_count; s++) {
            const zds_state_spec *spec = &needs->states[s];
            if (starts_as_param(spec))
                kernel_convert(t->states[s], spec->dtype, t->master, t->master_dtype, t->count);
            else if (starts_as_value(spec))
                kernel_fill(t->states[s], spec->dtype, spec->initial, t->count);
        }
    }
}

static void start_window(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    window w;
    stream_bind_window(arg, i, &w);
    start_tiles(arg, &w);
}

/* On a device piece by piece, in the order of its queue. */
static zds_status start_piece(zero *z, const piece *p)
{
    const zds_param_needs *needs = &z->with.params[p->param].needs;
    zds_status status = p->output.slab ? zero_convert(z, p->master, p->output, p->count) : ZDS_OK;
    for (uint32_t s = 0; !status && s < needs->state_count; s++)
        if (p->states[s].slab)
            status = start_state(z, &needs->states[s], p->states[s], p->master, p->count);
    return status;
}

/* Where a tile's output goes first. */
static bufref output_at(const zero *z, const window *w, size_t i)
{
    const piece *p = w->pieces[i];
    return p->away ? (bufref){&z->stream.ring.buffers, w->out_at[i], p->dtype}
                   : bufref_moved(p->output, w->tiles[i].first - p->first);
}

/* A tile whose record or parameter rests elsewhere, and has not been there yet. */
static zds_status start_tile(zero *z, const window *w, size_t i)
{
    const zds_tile *t = &w->tiles[i];
    const piece *p = w->pieces[i];
    const zds_param_needs *needs = &z->with.params[p->param].needs;
    const slab *buffers = &z->stream.ring.buffers;
    uint64_t first = t->first - p->first;
    const bufref master = p->rests ? (bufref){buffers, w->at[i], z->wish.master_dtype}
                                   : bufref_moved(p->master, first);
    zds_status status = zero_convert(z, master, output_at(z, w, i), t->count);
    for (uint32_t s = 0; !status && s < needs->state_count; s++) {
        const zds_state_spec *spec = &needs->states[s];
        bufref state = p->states[s];
        if (spec->kind != ZDS_STATE_ELEMENT || (p->rests && state.slab))
            continue;
        if (p->rests)
            state =
                (bufref){buffers, (uint64_t)((char *)t->states[s] - (char *)buffers->block.pointer),
                         spec->dtype};
        else
            state.offset += state_offset(spec, first);
        status = start_state(z, spec, state, master, t->count);
    }
    return status;
}

typedef struct loaded {
    const zero *z;
    uint64_t load;
} loaded;

static void start_loaded(void *arg, size_t j, int32_t thread)
{
    (void)thread;
    const loaded *l = arg;
    window w;
    records_bind(l->z, l->load, (uint32_t)j, &w);
    records_clear(l->z, &w);
    start_tiles(l->z, &w);
    records_seal(l->z, &w);
}

static zds_status start_load(zero *z, uint64_t load)
{
    loaded l = {z, load};
    window w;
    zds_status status = ZDS_OK;
    if (zero_is_here(z)) {
        pool_run(z->with.threads, records_windows(z, load), start_loaded, &l);
        return ZDS_OK;
    }
    records_bind(z, load, 0, &w);
    for (size_t k = 0; !status && k < w.count; k++)
        if (w.pieces[k]->rests || w.pieces[k]->away)
            status = start_tile(z, &w, k);
    return status;
}

static zds_status start_records(zero *z)
{
    uint64_t windows = number_windows(z, takes_all), loads = records_loads(z, windows);
    zds_status status = records_begin(z);
    for (uint64_t i = 0; !status && i < loads; i++) {
        status = records_read(z, i, windows, true);
        if (!status)
            status = records_await(z, i);
        if (!status)
            status = start_load(z, i);
        if (!status)
            status = records_write(z, i);
    }
    return status;
}

/* States that were set belong to other values. Records are written whole. */
static zds_status forget_states(zero *z)
{
    const slab *all[] = {&z->stream.states, &z->stream.whole.slab};
    zds_status status = ZDS_OK;
    for (size_t i = 0; z->stream.replaced && !status && i < sizeof all / sizeof *all; i++)
        status = zero_clear(z, (bufref){all[i], 0, ZDS_U8}, all[i]->block.bytes);
    z->stream.replaced = false;
    return status;
}

zds_status zero_start(zero *z)
{
    zds_status status = forget_states(z);
    if (status)
        return status;
    if (z->stream.ring.load)
        status = start_records(z);
    else if (zero_is_here(z))
        pool_run(z->with.threads, number_windows(z, takes_all), start_window, z);
    for (uint32_t k = 0; !status && !zero_is_here(z) && k < z->stream.piece_count; k++) {
        const piece *p = &z->stream.pieces[k];
        if (!p->rests && !p->away)
            status = start_piece(z, p);
    }
    /* States that are this rank's own reach beyond its parts. */
    for (uint32_t i = 0; i < z->with.model->param_count; i++)
        for (uint32_t s = 0; !status && s < z->with.params[i].needs.state_count; s++) {
            bufref whole = stream_whole_state(z, i, s);
            if (whole.slab)
                status = start_state(z, &z->with.params[i].needs.states[s], whole,
                                     params_at(z, i, 0), z->with.model->params[i].numel);
        }
    return status;
}

/* === a step === */

zds_status stream_failed(zero *z, zds_status status, const char *what, int64_t step)
{
    failure_set(z->with.failure, status, "optimizer %s failed in %s of step %lld: %s",
                z->with.optim_services->name, what, (long long)step,
                services_error(z->with.optim_services));
    return peers_give_up(z->with.peers, status); /* some tiles are updated and some are not */
}

typedef struct pass {
    zero *z;
    zds_step_ctx ctx; /* but for scratch, which is a thread's */
    step_function function;
    bool writes;   /* parameters; states any may */
    bool copies;   /* and leaves copies in fp32 to the host */
    uint64_t load; /* of records */
    _Atomic int32_t status;
    _Atomic int64_t spoilt; /* a parameter whose records are not what was left, or -1 */
} pass;

static void run_tiles(pass *p, const zds_tile *first, size_t count, int32_t thread)
{
    zds_tiles tiles = {
        .struct_size = sizeof tiles, .count = count, .stride = sizeof *first, .first = first};
    zds_step_ctx ctx = p->ctx;
    ctx.scratch = p->z->stream.scratch[thread];
    zds_status status = p->function(*p->z->with.optim_self, &tiles, &ctx);
    if (status)
        p->status = status;
}

static uint32_t span_of(const zero *z, uint32_t param)
{
    return z->lay->places[param].span;
}

static bool takes_present(const zero *z, uint32_t param)
{
    return z->grads.present[param] && !z->with.params[param].needs.whole_tensor;
}

/* What is to come before the spans are told of. Those of parameters that are updated whole are with
 * the end of the pass. */
static void expect_tiles(zero *z)
{
    for (uint32_t k = 0; k < z->stream.piece_count; k++) {
        const piece *p = &z->stream.pieces[k];
        if (z->grads.present[p->param])
            publish_expect(z, span_of(z, p->param),
                           takes_present(z, p->param) ? (uint32_t)(p->window_end - p->window) : 1);
    }
}

static void run_window(void *arg, size_t i, int32_t thread)
{
    pass *p = arg;
    window w;
    stream_bind_window(p->z, i, &w);
    run_tiles(p, w.tiles, w.count, thread);
    for (size_t k = 0; p->writes && !p->status && k < w.count; k++)
        publish_wrote(p->z, span_of(p->z, w.tiles[k].param->index), 1);
}

/* An optimizer that writes no fp32 output leaves the copy to the host. */
static void hide_outputs(window *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->tiles[i].output_dtype == ZDS_F32)
            w->tiles[i].output = NULL;
}

static zds_status copy_outputs(zero *z, const window *w)
{
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && i < w->count; i++) {
        const piece *p = w->pieces[i];
        const zds_tile *t = &w->tiles[i];
        uint64_t first = t->first - p->first;
        bufref from = p->rests ? (bufref){&z->stream.ring.buffers, w->at[i], z->wish.master_dtype}
                               : bufref_moved(p->master, first);
        if (!t->output)
            status = zero_convert(z, output_at(z, w, i), from, t->count);
    }
    return status;
}

/* The same by a thread, which has both before it. */
static void copy_outputs_here(const zero *z, const window *w)
{
    for (size_t i = 0; i < w->count; i++) {
        const zds_tile *t = &w->tiles[i];
        bufref to = output_at(z, w, i);
        if (!t->output)
            kernel_convert(bufref_at(to, 0), to.dtype, t->master, t->master_dtype, t->count);
    }
}

static void run_loaded(void *arg, size_t j, int32_t thread)
{
    pass *p = arg;
    window w;
    records_bind(p->z, p->load, (uint32_t)j, &w);
    int64_t spoilt = records_check(p->z, &w);
    if (spoilt >= 0)
        p->spoilt = spoilt;
    if (p->spoilt >= 0 || p->status)
        return;
    if (p->copies)
        hide_outputs(&w);
    run_tiles(p, w.tiles, w.count, thread);
    if (p->status)
        return;
    if (p->copies)
        copy_outputs_here(p->z, &w);
    records_seal(p->z, &w);
    for (size_t k = 0; p->writes && k < w.count; k++)
        publish_wrote(p->z, span_of(p->z, w.tiles[k].param->index), 1);
}

/* One window, in the order of the device's queue. */
static zds_status run_on_device(pass *p, window *w)
{
    if (p->copies)
        hide_outputs(w);
    run_tiles(p, w->tiles, w->count, 0);
    return p->copies && !p->status ? copy_outputs(p->z, w) : ZDS_OK;
}

static zds_status run_load(pass *p)
{
    zero *z = p->z;
    window w;
    zds_status status = records_await(z, p->load);
    if (status)
        return status;
    if (!zero_is_here(z)) {
        records_bind(z, p->load, 0, &w);
        return run_on_device(p, &w);
    }
    pool_run(z->with.threads, records_windows(z, p->load), run_loaded, p);
    return p->spoilt >= 0 ? records_spoilt(z, (uint32_t)p->spoilt) : ZDS_OK;
}

/* Loads of records are read ahead of the one that is stepped, and written behind it. */
static zds_status run_records(pass *p, uint64_t windows)
{
    zero *z = p->z;
    uint64_t loads = records_loads(z, windows), read = 0,
             ahead = z->wish.reads_ahead ? z->stream.ring.slot_count - 1 : 0;
    zds_status status = records_begin(z);
    for (uint64_t i = 0; !status && i < loads; i++) {
        for (; !status && read < loads && read <= i + ahead; read++)
            status = records_read(z, read, windows, false);
        p->load = i;
        if (!status)
            status = run_load(p);
        if (p->status)
            return ZDS_OK;
        if (!status)
            status = records_write(z, i);
    }
    return status;
}

/* A status of what was to be done around the optimizer's calls. */
static zds_status run_windows(pass *p, uint64_t windows)
{
    zero *z = p->z;
    zds_status status = ZDS_OK;
    p->copies = (zero_rests(z) || zero_params_rest(z)) && p->writes &&
                !(z->with.optim->flags & ZDS_OPTIM_F32_OUTPUT);
    if (z->stream.ring.load)
        return run_records(p, windows);
    if (zero_is_here(z))
        pool_run(z->with.threads, windows, run_window, p);
    for (uint64_t i = 0; !zero_is_here(z) && !status && !p->status && i < windows; i++) {
        window w;
        stream_bind_window(z, i, &w);
        status = run_on_device(p, &w);
    }
    return status;
}

/* Parameters that are updated whole: all of this rank's in one call. */
static void bind_whole(zero *z)
{
    stream_part *t = &z->stream;
    t->whole_count = 0;
    for (uint32_t k = 0; k < t->piece_count; k++) {
        const piece *p = &t->pieces[k];
        if (!z->grads.present[p->param] || !z->with.params[p->param].needs.whole_tensor)
            continue;
        bind(z, p, 0, p->count, &t->whole_tiles[t->whole_count],
             t->whole_tile_states[t->whole_count]);
        t->whole_count++;
    }
}

/* The pass over all tiles of this rank, and one before it where the optimizer wants norms. */
static zds_status step_tiles(zero *z, const zds_step_ctx *ctx)
{
    const zds_optim_ops *ops = z->with.optim;
    uint64_t windows = number_windows(z, takes_present);
    pass p = {.z = z, .ctx = *ctx, .function = ops->norms, .spoilt = -1};
    if (z->stream.norm_count) {
        zds_status status = run_windows(&p, windows);
        if (p.status)
            return stream_failed(z, p.status, "norms", ctx->step);
        if (!status)
            status = norm_sum_tensors(z);
        if (!status)
            status = stream_sums_ready(z, ctx);
        if (status)
            return status;
    }
    p.function = ops->step;
    p.writes = true;
    expect_tiles(z);
    zds_status status = run_windows(&p, windows);
    if (status)
        return status;
    bind_whole(z);
    if (!p.status && z->stream.whole_count)
        run_tiles(&p, z->stream.whole_tiles, z->stream.whole_count, 0);
    z->stream.own_states_cut = z->wish.stage >= 1 && !is_alone(z);
    return p.status ? stream_failed(z, p.status, "step", ctx->step) : ZDS_OK;
}

zds_status zero_update(zero *z, int64_t step, double grad_scale)
{
    const zds_optim_ops *ops = z->with.optim;
    zds_step_ctx ctx = {.struct_size = sizeof ctx,
                        .step = step,
                        .grad_scale = grad_scale,
                        .seed = z->wish.seed,
                        .scratch = z->stream.scratch[0],
                        .scratch_bytes = ops->scratch_bytes,
                        .stream = z->queue};
    services_clear(z->with.optim_services);
    z->stream.replaced = true;
    zds_status status = publish_begin(z);
    if (!status)
        status = params_seal(z, false);
    if (!status)
        status = stream_begin_step(z, &ctx);
    if (!status)
        status = z->local ? stream_collective(z, &ctx) : step_tiles(z, &ctx);
    if (status)
        return status;
    if (ops->end_step && (status = ops->end_step(*z->with.optim_self, &ctx)) != ZDS_OK)
        return stream_failed(z, status, "end_step", step);
    status = params_seal(z, true);
    if (!status && zero_params_rest(z)) /* from where they are gathered */
        status = records_settle(z);
    return status ? status : publish_all(z);
}
