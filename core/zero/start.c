/* What a run begins with: the pages of its memory, and the values of masters and states. */
#include <string.h>

#include "host/kernels.h"
#include "zero/parts.h"

/* === pages === */

enum { PAGE = 4096, TOUCHED = 2 << 20 };

/* Fresh bytes, which are zero. */
static void touch(void *at, uint64_t bytes)
{
    for (uint64_t i = 0; at && i < bytes; i += PAGE)
        ((volatile char *)at)[i] = 0;
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
    pool_run(z->with.threads, stream_number(z, stream_takes_cut), touch_window, z);
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
    zds_status status = zero_convert(z, master, stream_output_at(z, w, i), t->count);
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
    uint64_t windows = stream_number(z, takes_all), loads = records_loads(z, windows);
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
    return status ? status : records_end(z);
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
        pool_run(z->with.threads, stream_number(z, takes_all), start_window, z);
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
