/* One step of the optimizer under check, as zero makes it: between it and the plugin each call is
 * looked at, and gets what the plugin may only read in pages of its own. */
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/bootstrap.h"
#include "host/error.h"
#include "plugin/child.h"
#include "plugin/fault.h"
#include "plugin/registry.h"
#include "ranks.h"
#include "rig.h"

/* Of a later host: what it knows more of is behind what this header has. */
enum { INPUT_BYTES = 1 << 18 };
enum { TILE_STRIDE = sizeof(zds_tile) + 32, PARAM_STRIDE = sizeof(zds_param_step) + 16 };

/* === what the plugin may only read === */

static void retire(rig *r, area *a)
{
    if (r->retired_count == RIG_RETIRED)
        abort(); /* RIG_RETIRED is too small: a fault of the rig's */
    area_retire(a);
    r->retired[r->retired_count++] = a;
}

void *rig_input(rig_seat *s, size_t bytes)
{
    void *made = s->inputs->data + s->inputs_used;
    s->inputs_used += (bytes + 63) / 64 * 64;
    if (s->inputs_used > s->inputs->bytes)
        abort(); /* INPUT_BYTES is too small for a window: a fault of the rig's */
    return memset(made, 0, bytes);
}

static void *input_copy(rig_seat *s, const void *from, size_t bytes)
{
    return memcpy(rig_input(s, bytes), from, bytes);
}

rig_seat *rig_begin_inputs(rig *r, rig_seat *s)
{
    if (s->inputs && r->setup.moving) {
        retire(r, s->inputs);
        s->inputs = NULL;
    }
    if (!s->inputs)
        s->inputs = area_make(INPUT_BYTES, false, "structs that describe the step", "");
    area_seal(s->inputs, false);
    s->inputs_used = 0;
    return s;
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
        area **const mine[] = {&p->master, &p->grad, &p->output, &p->chunks};
        for (size_t k = 0; k < sizeof mine / sizeof *mine; k++)
            move_area(r, mine[k]);
        for (uint32_t s = 0; s < p->needs.state_count; s++)
            move_state(r, i, s);
    }
}

/* TENSOR and GLOBAL states, which tiles share: only calls over whole parameters may write them. */
static void seal_shared(rig *r, bool sealed)
{
    for (size_t i = 0; i < RIG_PARAMS; i++)
        for (uint32_t s = 0; s < r->params[i].needs.state_count; s++) {
            int32_t kind = r->params[i].needs.states[s].kind;
            if (kind == ZDS_STATE_TENSOR || kind == ZDS_STATE_GLOBAL)
                area_seal(r->params[i].states[s], sealed);
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

/* === what zero hands over, as the plugin gets it === */

static const zds_step_ctx *copy_ctx(const rig *r, rig_seat *s, const zds_step_ctx *given)
{
    zds_step_ctx *ctx = input_copy(s, given, sizeof *given);
    ctx->scratch = s->scratch->data;
    if (ctx->scratch)
        memset(ctx->scratch, r->setup.memory == RIG_ZEROS ? 0 : 0xff, s->scratch->bytes); /* NaN */
    return ctx;
}

static void *const *copy_states(rig_seat *s, const rig_param *p, void *const *states)
{
    void **copy = rig_input(s, (p->needs.state_count + 1) * sizeof *copy);
    memcpy(copy, states, p->needs.state_count * sizeof *copy);
    return copy;
}

static const double *copy_sums(rig_seat *s, const rig_param *p, const double *sums)
{
    return sums ? input_copy(s, sums, p->needs.tensor_norms * sizeof *sums) : NULL;
}

static zds_param_steps copy_params(rig *r, rig_seat *s, const zds_param_steps *given)
{
    char *list = rig_input(s, given->count * PARAM_STRIDE);
    for (size_t i = 0; i < given->count; i++) {
        zds_param_step *step = (zds_param_step *)(void *)(list + i * PARAM_STRIDE);
        *step = *zds_param_step_at(given, i);
        const rig_param *p = &r->params[step->param->index];
        step->param = rig_shown(r, p);
        step->hyper = input_copy(s, step->hyper, sizeof *step->hyper);
        step->states = copy_states(s, p, step->states);
        step->sums = copy_sums(s, p, step->sums);
        step->grad = step->part_count && step->master ? p->grad->data : NULL;
    }
    const zds_param_step *first = (const zds_param_step *)(const void *)list;
    return (zds_param_steps){sizeof(zds_param_steps), given->count, PARAM_STRIDE, first};
}

static size_t chunks_of(uint64_t elements)
{
    return (size_t)((elements + RIG_CHUNK - 1) / RIG_CHUNK);
}

static zds_tiles copy_tiles(rig *r, rig_seat *s, const zds_tiles *given)
{
    char *list = rig_input(s, given->count * TILE_STRIDE);
    for (size_t i = 0; i < given->count; i++) {
        zds_tile *tile = (zds_tile *)(void *)(list + i * TILE_STRIDE);
        *tile = *zds_tile_at(given, i);
        const rig_param *p = &r->params[tile->param->index];
        tile->param = rig_shown(r, p);
        tile->hyper = input_copy(s, tile->hyper, sizeof *tile->hyper);
        tile->states = copy_states(s, p, tile->states);
        tile->sums = p->needs.tensor_norms ? copy_sums(s, p, tile->sums) : NULL;
        tile->chunk_sums = NULL;
        tile->chunk_stride = p->needs.tensor_norms ? chunks_of(p->param.numel) : 0;
        if (tile->chunk_stride)
            tile->chunk_sums = (double *)(void *)p->chunks->data + tile->first / RIG_CHUNK;
    }
    const zds_tile *first = (const zds_tile *)(const void *)list;
    return (zds_tiles){sizeof(zds_tiles), given->count, TILE_STRIDE, first};
}

/* === the calls === */

/* After a call of the plugin. */
static zds_status told(rig *r, const char *function, zds_status status)
{
    if (status)
        atomic_store(&r->failed_in, function);
    return status;
}

static zds_status call_prepare(void *self, const zds_param_steps *params)
{
    rig *r = self;
    rig_seat *s = rig_begin_inputs(r, &r->seats[0]);
    const zds_param_steps seen = copy_params(r, s, params);
    area_seal(s->inputs, true);
    return told(r, "prepare", r->ops.prepare(r->self, &seen));
}

typedef zds_status (*params_function)(void *self, const zds_param_steps *, const zds_step_ctx *);

static zds_status call_params(rig *r, const char *name, params_function function,
                              const zds_param_steps *params, const zds_step_ctx *ctx)
{
    rig_seat *s = rig_begin_inputs(r, ctx->scratch);
    const zds_param_steps seen = copy_params(r, s, params);
    ctx = copy_ctx(r, s, ctx);
    area_seal(s->inputs, true);
    seal_shared(r, false);
    smear_stack(r);
    zds_status status = told(r, name, function(r->self, &seen, ctx));
    seal_shared(r, true);
    return status;
}

static zds_status call_begin_step(void *self, const zds_param_steps *params,
                                  const zds_step_ctx *ctx)
{
    rig *r = self;
    return call_params(r, "begin_step", r->ops.begin_step, params, ctx);
}

static zds_status call_sums_ready(void *self, const zds_param_steps *params,
                                  const zds_step_ctx *ctx)
{
    rig *r = self;
    return call_params(r, "sums_ready", r->ops.sums_ready, params, ctx);
}

static zds_status call_end_step(void *self, const zds_step_ctx *ctx)
{
    rig *r = self;
    rig_seat *s = rig_begin_inputs(r, ctx->scratch);
    ctx = copy_ctx(r, s, ctx);
    area_seal(s->inputs, true);
    return told(r, "end_step", r->ops.end_step(r->self, ctx));
}

static zds_status call_collective(void *self, const zds_param_steps *params,
                                  const zds_comm_ops *comm, void *comm_self,
                                  const zds_step_ctx *ctx)
{
    rig *r = self;
    rig_seat *s = rig_begin_inputs(r, ctx->scratch);
    const zds_param_steps seen = copy_params(r, s, params);
    ctx = copy_ctx(r, s, ctx);
    area_seal(s->inputs, true);
    seal_shared(r, false);
    r->b->order = r->order;
    smear_stack(r);
    zds_status status =
        told(r, "step_collective", r->ops.step_collective(r->self, &seen, comm, comm_self, ctx));
    r->b->order = BENCH_FORWARD;
    seal_shared(r, true);
    return status;
}

typedef zds_status (*tile_function)(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx);

/* Several threads at once, but for tensors that are updated whole: all of them in one call on one
 * thread, with the pool idle. */
static zds_status call_tiles(rig *r, rig_seat *s, const char *name, tile_function function,
                             const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const bool whole = r->params[tiles->first->param->index].needs.whole_tensor;
    area_seal(s->inputs, true);
    if (whole) {
        seal_shared(r, false);
        r->b->order = r->order;
    }
    smear_stack(r);
    alloc_watch(!whole);
    zds_status status = function(r->self, tiles, ctx);
    alloc_watch(false);
    if (whole) {
        seal_shared(r, true);
        r->b->order = BENCH_FORWARD;
    }
    return told(r, name, status);
}

static zds_status call_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    rig *r = self;
    rig_seat *s = rig_begin_inputs(r, ctx->scratch);
    const zds_tiles seen = copy_tiles(r, s, tiles);
    return call_tiles(r, s, "step", r->ops.step, &seen, copy_ctx(r, s, ctx));
}

static const double unwritten = 0x1.5a5a5a5a5a5a5p-1000; /* no sum comes out like this */

/* Hands the sums that the plugin has written on to zero. False: there is none for some chunk. */
static bool take_sums(rig *r, const zds_tile *seen, const zds_tile *given)
{
    const rig_param *p = &r->params[seen->param->index];
    for (uint32_t q = 0; q < p->needs.tensor_norms; q++)
        for (size_t c = 0; c < chunks_of(seen->count); c++) {
            const double sum = seen->chunk_sums[q * seen->chunk_stride + c];
            given->chunk_sums[q * given->chunk_stride + c] = sum;
            char *none = NULL, *fault;
            if (sum != unwritten)
                continue;
            fault = fault_format("norms wrote no sum %u for chunk %zu of %s", q,
                                 (size_t)(seen->first / RIG_CHUNK) + c, p->param.name);
            if (!atomic_compare_exchange_strong(&r->fault, &none, fault))
                fault_free(fault);
            return false;
        }
    return true;
}

static zds_status call_norms(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    rig *r = self;
    rig_seat *s = rig_begin_inputs(r, ctx->scratch);
    const zds_tiles seen = copy_tiles(r, s, tiles);
    for (size_t i = 0; i < seen.count; i++) {
        const zds_tile *t = zds_tile_at(&seen, i);
        for (uint32_t q = 0; q < r->params[t->param->index].needs.tensor_norms; q++)
            for (size_t c = 0; c < chunks_of(t->count); c++)
                t->chunk_sums[q * t->chunk_stride + c] = unwritten;
    }
    zds_status status = call_tiles(r, s, "norms", r->ops.norms, &seen, copy_ctx(r, s, ctx));
    for (size_t i = 0; i < seen.count && !status; i++)
        if (!take_sums(r, zds_tile_at(&seen, i), zds_tile_at(tiles, i)))
            status = ZDS_ERR_PLUGIN;
    return status;
}

zds_optim_ops rig_calls(const zds_optim_ops *ops)
{
    zds_optim_ops calls = *ops;
    calls.prepare = ops->prepare ? call_prepare : NULL;
    calls.begin_step = ops->begin_step ? call_begin_step : NULL;
    calls.norms = ops->norms ? call_norms : NULL;
    calls.sums_ready = ops->sums_ready ? call_sums_ready : NULL;
    calls.step = call_step;
    calls.step_collective = ops->step_collective ? call_collective : NULL;
    calls.end_step = ops->end_step ? call_end_step : NULL;
    return calls;
}

/* === how parameters are cut === */

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

/* Returns how many runs the parameter has. */
static size_t cut_param(const rig_param *p, const rig_cut *cut, hooked_run *runs)
{
    const uint64_t n = p->param.numel, unit = unit_of(p);
    const bool whole = p->needs.whole_tensor || !cut->tile;
    const uint64_t tile = whole ? n : round_up(cut->tile, unit);
    uint64_t count = !whole && cut->first ? round_up(cut->first, unit) : tile;
    size_t made = 0, ordinal = 0;
    for (uint64_t first = 0; first < n; first += count, count = tile)
        if (!cut->only_second || ordinal++ == 1)
            runs[made++] =
                (hooked_run){p->param.index, first, count < n - first ? count : n - first};
    return made;
}

static hooked_run *cut_all(const rig *r, const rig_cut *cut, size_t *count)
{
    size_t most = 0;
    for (size_t i = 0; i < RIG_PARAMS; i++)
        most += 2 + (size_t)(cut->tile ? r->params[i].param.numel / cut->tile : 0);
    hooked_run *runs = calloc(most, sizeof *runs);
    if (!runs)
        abort(); /* no memory for a check */
    *count = 0;
    for (size_t i = 0; i < RIG_PARAMS; i++)
        *count += cut_param(&r->params[i], cut, runs + *count);
    for (size_t i = 0; cut->order == BENCH_BACKWARD && i < *count / 2; i++) {
        const hooked_run last = runs[*count - 1 - i];
        runs[*count - 1 - i] = runs[i];
        runs[i] = last;
    }
    return runs;
}

/* === the whole of a step === */

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
                        .master_addr = ranks_address(),
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

void rig_arrays(const rig *r, hooked_arrays arrays[RIG_PARAMS])
{
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        const rig_param *p = &r->params[i];
        arrays[i] = (hooked_arrays){
            .master = p->master->data, .grad = p->grad->data, .output = p->output->data};
        for (uint32_t s = 0; s < p->needs.state_count; s++)
            arrays[i].states[s] = p->states[s]->data;
    }
}

char *rig_failure(rig *r, zds_status status)
{
    char *fault = atomic_exchange(&r->fault, NULL);
    const char *function = atomic_load(&r->failed_in);
    if (fault || !status)
        return fault;
    return function ? bench_failure(r->b, function, status)
                    : fault_format("the engine's step ended with \"%s\"", zds_status_name(status));
}

static char *run_step(rig *r, const rig_cut *cut, bool local)
{
    hooked_arrays arrays[RIG_PARAMS];
    void *scratch[RIG_SEATS]; /* by which a call finds its thread's seat */
    rig_arrays(r, arrays);
    for (int t = 0; t < RIG_SEATS; t++)
        scratch[t] = &r->seats[t];
    for (size_t i = 0; i < RIG_PARAMS; i++)
        r->hypers[i] = r->params[i].hyper;
    hooked_step step = {.arrays = arrays,
                        .tile = cut->tile ? cut->tile * (cut->batch ? cut->batch : 1) : UINT32_MAX,
                        .threads = cut->order == BENCH_THREADED ? RIG_SEATS : 1,
                        .scratch = scratch,
                        .step = r->step,
                        .grad_scale = r->grad_scale,
                        .local = local,
                        .comm = &r->comm_ops,
                        .comm_self = r->comm};
    hooked_run *runs = cut_all(r, cut, &step.run_count);
    step.runs = runs;
    r->order = cut->order;
    r->b->order = BENCH_FORWARD;
    const long before = alloc_watched();
    seal_shared(r, true);
    zds_status status = hooked_step_make(r->engine, &step);
    seal_shared(r, false);
    r->allocated += alloc_watched() - before;
    free(runs);
    return rig_failure(r, status);
}

char *rig_step(rig *r, const rig_cut *cut)
{
    int32_t mode;
    r->step++;
    bench_clear(r->b);
    char *fault = mode_of(r, &mode);
    const bool local = mode == ZDS_REDUCE_LOCAL;
    r->collectives += local;
    if (!fault && local)
        fault = open_comm(r);
    if (!fault)
        fault = run_step(r, cut, local);
    if (!fault && r->setup.moving)
        move_arrays(r);
    return fault;
}
