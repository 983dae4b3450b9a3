/* One step of the optimizer under check: tiles cut and handed out as the engine may do it. */
#include <dlfcn.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/bootstrap.h"
#include "host/error.h"
#include "plugin/child.h"
#include "plugin/fault.h"
#include "plugin/registry.h"
#include "rig.h"

/* Of a later host: what it knows more of is behind what this header has. */
enum { INPUT_BYTES = 4 << 20 };
enum { TILE_STRIDE = sizeof(zds_tile) + 32, PARAM_STRIDE = sizeof(zds_param_step) + 16 };

/* === what the plugin may only read === */

static void retire(rig *r, area *a)
{
    if (r->retired_count == RIG_RETIRED)
        abort(); /* RIG_RETIRED is too small: a fault of the rig's */
    area_retire(a);
    r->retired[r->retired_count++] = a;
}

void *rig_input(rig *r, size_t bytes)
{
    void *made = r->inputs->data + r->inputs_used;
    r->inputs_used += (bytes + 63) / 64 * 64;
    if (r->inputs_used > r->inputs->bytes)
        abort(); /* INPUT_BYTES is too small for RIG_PARAMS: a fault of the rig's */
    return memset(made, 0, bytes);
}

void rig_begin_inputs(rig *r)
{
    if (r->inputs && r->setup.moving) {
        retire(r, r->inputs);
        r->inputs = NULL;
    }
    if (!r->inputs)
        r->inputs = area_make(INPUT_BYTES, false, "structs that describe the step", "");
    area_seal(r->inputs, false);
    r->inputs_used = 0;
}

void rig_seal_inputs(rig *r)
{
    area_seal(r->inputs, true);
}

/* The same bytes elsewhere. */
static void move_area(rig *r, area **a)
{
    area *made = area_make((*a)->bytes, r->setup.tight, "", "");
    memcpy(made->what, (*a)->what, sizeof made->what);
    if (made->bytes)
        memcpy(made->data, (*a)->data, made->bytes);
    retire(r, *a);
    *a = made;
}

/* A GLOBAL state is one for all parameters. */
static void move_state(rig *r, size_t i, uint32_t s)
{
    area *old = r->params[i].states[s];
    if (old->retired)
        return;
    move_area(r, &r->params[i].states[s]);
    for (size_t o = i + 1; o < RIG_PARAMS; o++)
        for (uint32_t k = 0; k < r->params[o].needs.state_count; k++)
            if (r->params[o].states[k] == old)
                r->params[o].states[k] = r->params[i].states[s];
}

/* As between tiers of memory, or when a model is gathered anew. */
static void move_arrays(rig *r)
{
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        rig_param *p = &r->params[i];
        area **const mine[] = {&p->master, &p->grad, &p->output, &p->sums, &p->chunks};
        for (size_t k = 0; k < sizeof mine / sizeof *mine; k++)
            move_area(r, mine[k]);
        for (uint32_t s = 0; s < p->needs.state_count; s++)
            move_state(r, i, s);
    }
}

/* Leaves a pattern where the plugin's next call has its variables. */
__attribute__((noinline)) static void smear_stack(const rig *r)
{
    unsigned char room[1 << 14];
    if (r->setup.memory == RIG_AS_IT_COMES)
        return;
    memset(room, r->setup.memory == RIG_ZEROS ? 0 : 0xff, sizeof room);
    __asm__ volatile("" : : "r"(room) : "memory"); /* it is used */
}

static zds_step_ctx *make_ctx(rig *r, int thread)
{
    zds_step_ctx *ctx = rig_input(r, sizeof *ctx);
    area *scratch = r->scratch[thread];
    if (scratch->data)
        memset(scratch->data, r->setup.memory == RIG_ZEROS ? 0 : 0xff, scratch->bytes); /* NaN */
    *ctx = (zds_step_ctx){.struct_size = sizeof *ctx,
                          .step = r->step,
                          .grad_scale = r->grad_scale,
                          .seed = 42,
                          .scratch = scratch->data,
                          .scratch_bytes = (size_t)r->ops.scratch_bytes};
    return ctx;
}

static const zds_hyper *make_hyper(rig *r, const rig_param *p)
{
    zds_hyper *h = rig_input(r, sizeof *h);
    *h = p->hyper;
    return h;
}

/* === tiles === */

static uint64_t round_up(uint64_t elements, uint64_t unit)
{
    return (elements + unit - 1) / unit * unit;
}

/* What every tile boundary is a multiple of. */
static uint64_t unit_of(const rig_param *p)
{
    const uint64_t g = p->needs.granularity ? p->needs.granularity : 1;
    uint64_t unit = g;
    while (p->needs.tensor_norms && unit % RIG_CHUNK)
        unit += g;
    return unit;
}

static char *at_element(const area *a, zds_dtype dtype, uint64_t first)
{
    return a->data ? a->data + first * zds_dtype_size(dtype) : NULL;
}

static char *state_at(const area *a, const zds_state_spec *spec, uint64_t first)
{
    if (spec->kind == ZDS_STATE_ELEMENT)
        return at_element(a, spec->dtype, first);
    return spec->kind == ZDS_STATE_BLOCK ? a->data + first / spec->block * spec->bytes : a->data;
}

static void fill_tile(rig *r, rig_param *p, zds_tile *tile, uint64_t first, uint64_t count)
{
    void **states = rig_input(r, (p->needs.state_count + 1) * sizeof *states);
    for (uint32_t s = 0; s < p->needs.state_count; s++)
        states[s] = state_at(p->states[s], &p->needs.states[s], first);
    const size_t stride = (size_t)(p->param.numel + RIG_CHUNK - 1) / RIG_CHUNK;
    double *chunks = (double *)(void *)p->chunks->data;
    *tile = (zds_tile){.struct_size = sizeof *tile,
                       .param = rig_shown(r, p),
                       .hyper = make_hyper(r, p),
                       .first = first,
                       .count = count,
                       .master_dtype = r->setup.master,
                       .grad_dtype = r->setup.grad,
                       .output_dtype = r->setup.output,
                       .master = at_element(p->master, r->setup.master, first),
                       .grad = at_element(p->grad, r->setup.grad, first),
                       .output = at_element(p->output, r->setup.output, first),
                       .states = states,
                       .sums = (const double *)(const void *)p->sums->data,
                       .chunk_sums = chunks ? chunks + first / RIG_CHUNK : NULL,
                       .chunk_stride = chunks ? stride : 0};
}

/* The step's tiles: those for any thread first, then whole tensors. */
typedef struct tiling {
    char *tiles;
    size_t shared, all;
} tiling;

static zds_tile *tile_of(const tiling *t, size_t i)
{
    return (zds_tile *)(void *)(t->tiles + i * TILE_STRIDE);
}

/* `only`: the second tile alone. */
static void cut_param(rig *r, rig_param *p, const rig_cut *cut, bool only, tiling *t)
{
    const uint64_t n = p->param.numel, unit = unit_of(p);
    const bool whole = p->needs.whole_tensor;
    const uint64_t tile = !whole && cut->tile ? round_up(cut->tile, unit) : n;
    uint64_t count = !whole && cut->first ? round_up(cut->first, unit) : tile;
    size_t ordinal = 0;
    for (uint64_t first = 0; first < n; first += count, count = tile)
        if (!only || ordinal++ == 1)
            fill_tile(r, p, tile_of(t, t->all++), first, count < n - first ? count : n - first);
}

static tiling cut_all(rig *r, const rig_cut *cut, bool only)
{
    size_t most = 0;
    for (size_t i = 0; i < RIG_PARAMS; i++)
        most += (size_t)r->params[i].param.numel;
    if (cut->tile)
        most = most / cut->tile + 3 * RIG_PARAMS;
    else
        most = 2 * RIG_PARAMS;
    tiling t = {.tiles = rig_input(r, most * TILE_STRIDE)};
    for (int whole = 0; whole < 2; whole++) {
        for (size_t i = 0; i < RIG_PARAMS; i++)
            if ((r->params[i].needs.whole_tensor != 0) == whole)
                cut_param(r, &r->params[i], cut, only, &t);
        if (!whole)
            t.shared = t.all;
    }
    return t;
}

/* === calls === */

typedef zds_status (*tile_function)(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx);

typedef struct calls {
    rig *r;
    tile_function function;
    const tiling *t;
    size_t batch, count; /* tiles a call, calls */
    int32_t order;
    zds_step_ctx *ctx[BENCH_THREADS + 1];
    atomic_size_t next, threads;
    atomic_int status;
} calls;

static void run_call(calls *c, size_t i, size_t thread)
{
    const size_t first = i * c->batch;
    zds_tiles tiles = {.struct_size = sizeof tiles,
                       .count = first + c->batch < c->t->shared ? c->batch : c->t->shared - first,
                       .stride = TILE_STRIDE,
                       .first = tile_of(c->t, first)};
    smear_stack(c->r);
    alloc_watch(true);
    zds_status status = c->function(c->r->self, &tiles, c->ctx[thread]);
    alloc_watch(false);
    if (status)
        atomic_store(&c->status, status);
}

static void *run_calls(void *arg)
{
    calls *c = arg;
    const size_t thread = atomic_fetch_add(&c->threads, 1);
    for (size_t i; (i = atomic_fetch_add(&c->next, 1)) < c->count;)
        run_call(c, c->order == BENCH_BACKWARD ? c->count - 1 - i : i, thread);
    return NULL;
}

/* The shared tiles, on one thread or several. */
static zds_status call_tiles(calls *c)
{
    pthread_t threads[BENCH_THREADS];
    size_t started = 0;
    c->next = c->threads = 0;
    c->r->b->order = BENCH_FORWARD; /* inside a tile parallel_for runs inline */
    while (c->order == BENCH_THREADED && started < BENCH_THREADS &&
           pthread_create(&threads[started], NULL, run_calls, c) == 0)
        started++;
    run_calls(c);
    for (size_t t = 0; t < started; t++)
        pthread_join(threads[t], NULL);
    c->r->b->order = c->order;
    return c->status;
}

/* Whole tensors: all in one call, on one thread with the pool idle. */
static zds_status call_whole(calls *c)
{
    const size_t count = c->t->all - c->t->shared;
    zds_tiles tiles = {.struct_size = sizeof tiles,
                       .count = count,
                       .stride = TILE_STRIDE,
                       .first = tile_of(c->t, c->t->shared)};
    smear_stack(c->r);
    return count ? c->function(c->r->self, &tiles, c->ctx[0]) : ZDS_OK;
}

/* TENSOR and GLOBAL states, which tiles share: only begin_step and whole tensors may write them. */
static void seal_shared(rig *r, bool sealed)
{
    for (size_t i = 0; i < RIG_PARAMS; i++)
        for (uint32_t s = 0; s < r->params[i].needs.state_count; s++) {
            int32_t kind = r->params[i].needs.states[s].kind;
            if (kind == ZDS_STATE_TENSOR || kind == ZDS_STATE_GLOBAL)
                area_seal(r->params[i].states[s], sealed);
        }
}

static zds_status call_all(calls *c)
{
    c->count = (c->t->shared + c->batch - 1) / c->batch;
    seal_shared(c->r, true);
    zds_status status = call_tiles(c);
    seal_shared(c->r, false);
    return status || c->function == c->r->ops.norms ? status : call_whole(c);
}

/* === norms === */

static const double unwritten = 0x1.5a5a5a5a5a5a5p-1000; /* no sum comes out like this */

static double *doubles(const area *a)
{
    return (double *)(void *)a->data;
}

static void clear_chunks(rig *r)
{
    for (size_t i = 0; i < RIG_PARAMS; i++)
        for (size_t k = 0; k < r->params[i].chunks->bytes / sizeof(double); k++)
            doubles(r->params[i].chunks)[k] = unwritten;
}

/* In chunk order, as the engine adds. */
static char *add_chunks(rig *r)
{
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        rig_param *p = &r->params[i];
        const size_t chunks = (size_t)(p->param.numel + RIG_CHUNK - 1) / RIG_CHUNK;
        area_seal(p->sums, false);
        for (uint32_t q = 0; q < p->needs.tensor_norms; q++) {
            double sum = 0;
            for (size_t c = 0; c < chunks; c++) {
                double part = doubles(p->chunks)[q * chunks + c];
                if (part == unwritten)
                    return fault_format("norms wrote no sum %u for chunk %zu of %s", q, c,
                                        p->param.name);
                sum += part;
            }
            doubles(p->sums)[q] = sum;
        }
        area_seal(p->sums, true);
    }
    return NULL;
}

/* === the whole of a step === */

/* What each call over whole parameters sees of them. */
enum { SEE_PREPARE, SEE_BEGIN, SEE_SUMS, SEE_ALL };

static zds_param_steps make_params(rig *r, int what)
{
    const bool collective = what == SEE_ALL;
    char *list = rig_input(r, RIG_PARAMS * PARAM_STRIDE);
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        rig_param *p = &r->params[i];
        zds_param_step *step = (zds_param_step *)(void *)(list + i * PARAM_STRIDE);
        void **states = rig_input(r, (p->needs.state_count + 1) * sizeof *states);
        for (uint32_t s = 0; s < p->needs.state_count; s++) {
            const zds_state_spec *spec = &p->needs.states[s];
            bool sharded = spec->scope == ZDS_SCOPE_SHARDED &&
                           (spec->kind == ZDS_STATE_ELEMENT || spec->kind == ZDS_STATE_BLOCK);
            states[s] = collective || !sharded ? p->states[s]->data : NULL;
        }
        *step =
            (zds_param_step){.struct_size = sizeof *step,
                             .param = rig_shown(r, p),
                             .hyper = make_hyper(r, p),
                             .states = states,
                             .master = collective ? p->master->data : NULL,
                             .grad = collective ? p->grad->data : NULL,
                             .output = collective ? p->output->data : NULL,
                             .master_dtype = r->setup.master,
                             .grad_dtype = r->setup.grad,
                             .output_dtype = r->setup.output,
                             .has_grad = 1,
                             .part_count = collective || what == SEE_PREPARE ? p->param.numel : 0,
                             .sums = what == SEE_SUMS ? doubles(p->sums) : NULL};
    }
    const zds_param_step *first = (const zds_param_step *)(const void *)list;
    return (zds_param_steps){sizeof(zds_param_steps), RIG_PARAMS, PARAM_STRIDE, first};
}

/* A world of one, or shared memory: what comes with zds, beside this program. */
static char *open_comm(rig *r)
{
    if (r->comm)
        return NULL;
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(self, '/');
    const rig_setup *s = &r->setup;
    const char *name = s->port ? "shm" : "self";
    char *path =
        slash ? text_format("%.*s/plugins/comm_%s.so", (int)(slash - self), self, name) : NULL;
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    free(path);
    const zds_plugin *const *plugins = library ? dlsym(library, "zds_plugin_v1") : NULL;
    if (!plugins)
        return fault_format("needs comm_%s.so of this install, which cannot be opened: %s", name,
                            library ? "it has no symbol" : dlerror());
    plugin_ops(plugins[0], &r->comm_ops, sizeof r->comm_ops);
    zds_comm_env env = {.struct_size = sizeof env,
                        .rank = s->port ? s->rank : 0,
                        .local_rank = s->port ? s->rank : 0,
                        .world_size = s->port ? s->world : 1,
                        .local_world_size = s->port ? s->world : 1,
                        .master_addr = "127.0.0.1",
                        .master_port = s->port,
                        .timeout_ms = child_limit_ms() / 3};
    bootstrap *meeting = bootstrap_open(&env);
    if (!meeting)
        return fault_format("there is no memory for the check");
    env.bootstrap = bootstrap_offer(meeting);
    zds_status status = r->comm_ops.init(&r->b->host, NULL, &env, &r->comm);
    bootstrap_close(meeting);
    return status ? bench_within(bench_failure(r->b, "init", status), "comm %s", name) : NULL;
}

static char *step_collective(rig *r, int32_t order)
{
    r->collectives++;
    char *fault = open_comm(r);
    if (fault)
        return fault;
    rig_begin_inputs(r);
    zds_param_steps params = make_params(r, SEE_ALL);
    const zds_step_ctx *ctx = make_ctx(r, 0);
    rig_seal_inputs(r);
    r->b->order = order;
    smear_stack(r);
    zds_status status = r->ops.step_collective(r->self, &params, &r->comm_ops, r->comm, ctx);
    return status ? bench_failure(r->b, "step_collective", status) : NULL;
}

/* Between norms and step; the tiles of the step are made anew. */
static char *sums_ready(rig *r)
{
    if (!r->ops.sums_ready)
        return NULL;
    rig_begin_inputs(r);
    zds_param_steps params = make_params(r, SEE_SUMS);
    const zds_step_ctx *ctx = make_ctx(r, 0);
    rig_seal_inputs(r);
    r->b->order = BENCH_FORWARD;
    smear_stack(r);
    zds_status status = r->ops.sums_ready(r->self, &params, ctx);
    return status ? bench_failure(r->b, "sums_ready", status) : NULL;
}

/* norms or step over the tiles. */
static zds_status pass(rig *r, const rig_cut *cut, bool only_second, tile_function function)
{
    rig_begin_inputs(r);
    const tiling t = cut_all(r, cut, only_second);
    calls c = {.r = r, .t = &t, .batch = cut->batch ? cut->batch : 1, .order = cut->order};
    for (int i = 0; i <= BENCH_THREADS; i++)
        c.ctx[i] = make_ctx(r, i);
    rig_seal_inputs(r);
    const long before = alloc_watched();
    c.function = function;
    zds_status status = call_all(&c);
    r->allocated += alloc_watched() - before;
    return status;
}

static char *step_tiles(rig *r, const rig_cut *cut)
{
    clear_chunks(r);
    zds_status status = r->ops.norms ? pass(r, cut, false, r->ops.norms) : ZDS_OK;
    if (status)
        return bench_failure(r->b, "norms", status);
    char *fault = add_chunks(r);
    if (!fault)
        fault = sums_ready(r);
    if (!fault && (status = pass(r, cut, cut->only_second, r->ops.step)) != ZDS_OK)
        fault = bench_failure(r->b, "step", status);
    return fault;
}

/* Which of the two kinds of step comes. */
static char *mode_of(rig *r, int32_t *mode)
{
    *mode = ZDS_REDUCE_MEAN;
    if (!r->ops.reduction_mode)
        return NULL;
    *mode = r->ops.reduction_mode(r->self, r->step);
    int32_t again = r->ops.reduction_mode(r->self, r->step);
    if (*mode != again)
        return fault_format("reduction_mode says %d, then %d for step %lld", *mode, again,
                            (long long)r->step);
    return *mode == ZDS_REDUCE_MEAN || *mode == ZDS_REDUCE_LOCAL
               ? NULL
               : fault_format("reduction_mode says %d, which is neither MEAN nor LOCAL", *mode);
}

/* Before the first step. */
static char *prepare(rig *r)
{
    if (r->prepared || !r->ops.prepare)
        return NULL;
    r->prepared = true;
    rig_begin_inputs(r);
    zds_param_steps params = make_params(r, SEE_PREPARE);
    rig_seal_inputs(r);
    zds_status status = r->ops.prepare(r->self, &params);
    return status ? bench_failure(r->b, "prepare", status) : NULL;
}

static char *run_step(rig *r, const rig_cut *cut)
{
    int32_t mode;
    r->step++;
    bench_clear(r->b);
    char *fault = prepare(r);
    if (!fault)
        fault = mode_of(r, &mode);
    if (fault)
        return fault;
    rig_begin_inputs(r);
    zds_param_steps params = make_params(r, SEE_BEGIN);
    const zds_step_ctx *ctx = make_ctx(r, 0);
    rig_seal_inputs(r);
    r->b->order = BENCH_FORWARD;
    smear_stack(r);
    zds_status status = r->ops.begin_step ? r->ops.begin_step(r->self, &params, ctx) : ZDS_OK;
    if (status)
        return bench_failure(r->b, "begin_step", status);
    fault = mode == ZDS_REDUCE_LOCAL ? step_collective(r, cut->order) : step_tiles(r, cut);
    if (fault || !r->ops.end_step)
        return fault;
    rig_begin_inputs(r);
    ctx = make_ctx(r, 0);
    rig_seal_inputs(r);
    status = r->ops.end_step(r->self, ctx);
    return status ? bench_failure(r->b, "end_step", status) : NULL;
}

char *rig_step(rig *r, const rig_cut *cut)
{
    char *fault = run_step(r, cut);
    if (!fault && r->setup.moving)
        move_arrays(r);
    return fault;
}
