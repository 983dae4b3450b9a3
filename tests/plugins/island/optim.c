/* A wrapper for each of the host's optimizers that computes on the island: it keeps what is only
 * valid during a call, translates addresses, and puts the call on the stream. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "island.h"

enum { MOST = 64 };

typedef struct wrapper {
    zds_plugin plugin;
    zds_optim_ops ops, inner; /* inner: as far as the plugin's reaches */
} wrapper;

static wrapper wrappers[MOST];
static size_t wrapper_count;

/* An instance. */
typedef struct wrapped {
    const zds_optim_ops *inner;
    const zds_host *real;
    zds_host host;     /* for the inner one, whose calls come on the island's thread */
    zds_device device; /* where it computes */
    uint64_t ranks;
    void *self;
    uint32_t *states; /* [state_room]: how many a parameter has, by its index */
    size_t state_room;
} wrapped;

/* === the host that the inner one sees === */

static const zds_host *real_of(const zds_host *host)
{
    const wrapped *w = host->context;
    return w->real;
}

static void host_log(const zds_host *host, int32_t level, const char *format, ...) ZDS_PRINTF(3, 4);
static zds_status host_fail(const zds_host *host, zds_status status, const char *format, ...)
    ZDS_PRINTF(3, 4);

static void host_log(const zds_host *host, int32_t level, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    real_of(host)->log(real_of(host), level, "%s", text);
}

static _Thread_local char *late_text; /* of the work in progress */

static zds_status host_fail(const zds_host *host, zds_status status, const char *format, ...)
{
    char text[ISLAND_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (late_text) {
        memcpy(late_text, text, sizeof text);
        return status;
    }
    return real_of(host)->fail(real_of(host), status, "%s", text);
}

/* What the inner one keeps for its steps is the island's, and it gets the view. Work on the stream
 * must not ask for memory; what it takes for itself then is the host's. */
static void *host_alloc(const zds_host *host, size_t bytes, size_t align)
{
    const wrapped *w = host->context;
    if (late_text)
        return w->real->alloc(w->real, bytes, align);
    void *address = w->real->alloc_in(w->real, w->device, bytes, align);
    return address ? island_view(address) : NULL;
}

static void *host_alloc_in(const zds_host *host, zds_device device, size_t bytes, size_t align)
{
    return device.space == ZDS_SPACE_HOST ? host_alloc(host, bytes, align) : NULL;
}

static void host_free(const zds_host *host, void *pointer)
{
    real_of(host)->free(real_of(host), island_address(pointer));
}

static void host_parallel_for(const zds_host *host, size_t n, void (*body)(void *arg, size_t i),
                              void *arg)
{
    (void)host;
    for (size_t i = 0; i < n; i++)
        body(arg, i);
}

/* === life === */

static zds_status create(const wrapper *wrap, const zds_host *host, const void *options,
                         const zds_optim_env *env, void **self)
{
    zds_optim_env inner_env = *env;
    wrapped *w = calloc(1, sizeof *w);
    if (!w)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    w->inner = &wrap->inner;
    w->real = host;
    w->device = (zds_device){.space = env->space, .ordinal = env->ordinal};
    w->ranks = (uint64_t)env->world_size;
    w->host = (zds_host){.struct_size = sizeof w->host,
                         .abi_minor = host->abi_minor,
                         .threads = 1,
                         .context = w,
                         .log = host_log,
                         .fail = host_fail,
                         .alloc = host_alloc,
                         .free = host_free,
                         .parallel_for = host_parallel_for,
                         .alloc_in = host_alloc_in};
    inner_env.space = ZDS_SPACE_HOST;
    zds_status status = ZDS_OK;
    if (w->inner->create)
        status = w->inner->create(&w->host, options, &inner_env, &w->self);
    else if (env->state_dtype != ZDS_F32 || env->stochastic_rounding)
        status = host->fail(host, ZDS_ERR_UNSUPPORTED,
                            "keeps its states in float32 and rounds to "
                            "nearest");
    if (status)
        free(w);
    else
        *self = w;
    return status;
}

static void destroy(void *self)
{
    wrapped *w = self;
    if (w->inner->destroy)
        w->inner->destroy(w->self);
    free(w->states);
    free(w);
}

/* A vtable's create is not told whose it is: one for each. */
#define CREATE(n)                                                                                  \
    static zds_status create_##n(const zds_host *host, const void *options,                        \
                                 const zds_optim_env *env, void **self)                            \
    {                                                                                              \
        return create(&wrappers[n], host, options, env, self);                                     \
    }
#define EIGHT(apply, a)                                                                            \
    apply(a##0) apply(a##1) apply(a##2) apply(a##3) apply(a##4) apply(a##5) apply(a##6) apply(a##7)
#define ALL(apply)                                                                                 \
    EIGHT(apply, 0)                                                                                \
    EIGHT(apply, 01)                                                                               \
    EIGHT(apply, 02)                                                                               \
    EIGHT(apply, 03) EIGHT(apply, 04) EIGHT(apply, 05) EIGHT(apply, 06) EIGHT(apply, 07)
ALL(CREATE)

typedef zds_status (*create_fn)(const zds_host *host, const void *options, const zds_optim_env *env,
                                void **self);
#define CREATED(n) create_##n,
static const create_fn creates[MOST] = {ALL(CREATED)};

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    wrapped *w = self;
    zds_status status = w->inner->describe(w->self, param, needs);
    if (status)
        return status;
    if (param->index >= w->state_room) {
        const size_t room = 2 * (size_t)param->index + 64;
        uint32_t *states = realloc(w->states, room * sizeof *states);
        if (!states)
            return w->real->fail(w->real, ZDS_ERR_MEMORY, "no memory for an optimizer");
        memset(states + w->state_room, 0, (room - w->state_room) * sizeof *states);
        w->states = states;
        w->state_room = room;
    }
    w->states[param->index] = needs->state_count;
    return ZDS_OK;
}

static zds_status prepare(void *self, const zds_param_steps *params)
{
    const wrapped *w = self;
    return w->inner->prepare(w->self, params);
}

static int32_t reduction_mode(void *self, int64_t step)
{
    const wrapped *w = self;
    return w->inner->reduction_mode(w->self, step);
}

/* === a call that waits for its turn === */

typedef zds_status (*tiles_fn)(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx);
typedef zds_status (*params_fn)(void *self, const zds_param_steps *params, const zds_step_ctx *ctx);
typedef zds_status (*end_fn)(void *self, const zds_step_ctx *ctx);

typedef struct call {
    const wrapped *w;
    tiles_fn tiles_call; /* one of the three */
    params_fn params_call;
    end_fn end_call;
    zds_step_ctx ctx;
    zds_tiles tiles;
    zds_param_steps params;
    char *room; /* what is not yet used behind the struct */
} call;

/* All that a call may have to keep, in one piece behind it. */
static call *call_make(const wrapped *w, const zds_step_ctx *ctx, size_t room)
{
    call *c = calloc(1, sizeof *c + room);
    if (!c)
        return NULL;
    c->w = w;
    memcpy(&c->ctx, ctx, ctx->struct_size < sizeof c->ctx ? ctx->struct_size : sizeof c->ctx);
    c->ctx.struct_size = sizeof c->ctx;
    c->ctx.stream = NULL;
    c->ctx.scratch = island_view_of_ours(ctx->scratch, "ctx->scratch");
    c->room = (char *)(c + 1);
    return c;
}

static void *take(call *c, size_t bytes)
{
    void *taken = c->room;
    c->room += bytes;
    return taken;
}

static const zds_hyper *keep_hyper(call *c, const zds_hyper *hyper)
{
    zds_hyper *kept = take(c, sizeof *kept);
    const size_t bytes = hyper->struct_size < sizeof *kept ? hyper->struct_size : sizeof *kept;
    memcpy(kept, hyper, bytes);
    kept->struct_size = bytes;
    return kept;
}

static void *const *keep_states(call *c, void *const *states, const zds_param *param)
{
    const uint32_t count = param->index < c->w->state_room ? c->w->states[param->index] : 0;
    void **kept = take(c, ZDS_MAX_STATES * sizeof *kept);
    for (uint32_t i = 0; states && i < count; i++)
        kept[i] = island_view_of_ours(states[i], "a state");
    return kept;
}

enum { ROOM_A_PARAM = sizeof(zds_hyper) + ZDS_MAX_STATES * sizeof(void *) };

static void keep_tile(call *c, zds_tile *kept, const zds_tile *tile)
{
    const size_t bytes = tile->struct_size < sizeof *kept ? tile->struct_size : sizeof *kept;
    memcpy(kept, tile, bytes);
    kept->struct_size = bytes;
    kept->hyper = keep_hyper(c, tile->hyper);
    kept->states = keep_states(c, tile->states, tile->param);
    kept->master = island_view_of_ours(kept->master, "master");
    kept->grad = island_view_of_ours(kept->grad, "grad");
    kept->output = island_view_of_ours(kept->output, "output");
    kept->sums = island_view_of_ours(kept->sums, "sums");
    kept->chunk_sums = island_view_of_ours(kept->chunk_sums, "chunk_sums");
}

static void keep_param(call *c, zds_param_step *kept, const zds_param_step *p)
{
    const size_t bytes = p->struct_size < sizeof *kept ? p->struct_size : sizeof *kept;
    memcpy(kept, p, bytes);
    kept->struct_size = bytes;
    kept->hyper = keep_hyper(c, p->hyper);
    kept->states = keep_states(c, p->states, p->param);
    kept->master = island_view_of_ours(kept->master, "master");
    kept->grad = island_view_of_ours(kept->grad, "grad");
    kept->output = island_view_of_ours(kept->output, "output");
    kept->sums = island_view_of_ours(kept->sums, "sums");
}

static zds_status run(void *arg, char *text)
{
    const call *c = arg;
    late_text = text;
    zds_status status = c->tiles_call    ? c->tiles_call(c->w->self, &c->tiles, &c->ctx)
                        : c->params_call ? c->params_call(c->w->self, &c->params, &c->ctx)
                                         : c->end_call(c->w->self, &c->ctx);
    late_text = NULL;
    return status;
}

static zds_status no_memory(const wrapped *w)
{
    return w->real->fail(w->real, ZDS_ERR_MEMORY, "no memory for a call on the island");
}

static zds_status put(call *c, const zds_step_ctx *ctx)
{
    const wrapped *w = c->w;
    if (ctx->stream)
        return island_put(island_device_of(ctx->stream), ctx->stream, NULL, 0, run, c, NULL);
    free(c);
    return w->real->fail(w->real, ZDS_ERR_INVALID,
                         "an optimizer on the island needs a stream, and gets none");
}

static call *params_call(const wrapped *w, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    call *c = call_make(w, ctx, params->count * (sizeof(zds_param_step) + ROOM_A_PARAM));
    if (!c)
        return NULL;
    zds_param_step *kept = take(c, params->count * sizeof *kept);
    for (size_t i = 0; i < params->count; i++)
        keep_param(c, &kept[i], zds_param_step_at(params, i));
    c->params = (zds_param_steps){.struct_size = sizeof c->params,
                                  .count = params->count,
                                  .stride = sizeof *kept,
                                  .first = kept};
    return c;
}

static zds_status put_params(const wrapped *w, const zds_param_steps *params,
                             const zds_step_ctx *ctx, params_fn function)
{
    call *c = params_call(w, params, ctx);
    if (!c)
        return no_memory(w);
    c->params_call = function;
    return put(c, ctx);
}

static zds_status put_tiles(const wrapped *w, const zds_tiles *tiles, const zds_step_ctx *ctx,
                            tiles_fn function)
{
    call *c = call_make(w, ctx, tiles->count * (sizeof(zds_tile) + ROOM_A_PARAM));
    if (!c)
        return no_memory(w);
    zds_tile *kept = take(c, tiles->count * sizeof *kept);
    for (size_t i = 0; i < tiles->count; i++)
        keep_tile(c, &kept[i], zds_tile_at(tiles, i));
    c->tiles = (zds_tiles){.struct_size = sizeof c->tiles,
                           .count = tiles->count,
                           .stride = sizeof *kept,
                           .first = kept};
    c->tiles_call = function;
    return put(c, ctx);
}

static zds_status begin_step(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    const wrapped *w = self;
    return put_params(w, params, ctx, w->inner->begin_step);
}

static zds_status sums_ready(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    const wrapped *w = self;
    return put_params(w, params, ctx, w->inner->sums_ready);
}

static zds_status norms(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const wrapped *w = self;
    return put_tiles(w, tiles, ctx, w->inner->norms);
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const wrapped *w = self;
    return put_tiles(w, tiles, ctx, w->inner->step);
}

static zds_status end_step(void *self, const zds_step_ctx *ctx)
{
    const wrapped *w = self;
    call *c = call_make(w, ctx, 0);
    if (!c)
        return no_memory(w);
    c->end_call = w->inner->end_step;
    return put(c, ctx);
}

/* Ranks wait for each other, and so the calling thread does. */
static zds_status step_collective(void *self, const zds_param_steps *params,
                                  const zds_comm_ops *comm, void *comm_self,
                                  const zds_step_ctx *ctx)
{
    const wrapped *w = self;
    zds_status status = ctx->stream ? island_stream_sync(ctx->stream) : ZDS_OK;
    if (status)
        return status;
    call *c = params_call(w, params, ctx);
    if (!c)
        return no_memory(w);
    island_own_comm own = {.device = w->device, .ranks = w->ranks, .host = w->real};
    island_own_comm_init(&own, comm, comm_self);
    status = w->inner->step_collective(w->self, &c->params, &own.ops, &own, &c->ctx);
    free(c);
    return status;
}

const zds_plugin *island_wrap(const zds_plugin *optim)
{
    if (wrapper_count == MOST)
        return NULL;
    const size_t i = wrapper_count;
    wrapper *wrap = &wrappers[i];
    const zds_optim_ops *theirs = optim->ops;
    const size_t size =
        theirs->struct_size < sizeof wrap->inner ? theirs->struct_size : sizeof wrap->inner;
    if (!(theirs->spaces & ZDS_SPACE_BIT(ZDS_SPACE_HOST)))
        return NULL;
    memcpy(&wrap->inner, theirs, size);
    const zds_optim_ops *inner = &wrap->inner;
    wrap->ops = *inner;
    wrap->ops.struct_size = sizeof wrap->ops;
    wrap->ops.spaces = ZDS_SPACE_BIT(ZDS_SPACE_TEST);
    wrap->ops.create = creates[i];
    wrap->ops.destroy = destroy;
    wrap->ops.describe = describe;
    wrap->ops.begin_step = inner->begin_step ? begin_step : NULL;
    wrap->ops.norms = inner->norms ? norms : NULL;
    wrap->ops.step = step;
    wrap->ops.end_step = inner->end_step ? end_step : NULL;
    wrap->ops.reduction_mode = inner->reduction_mode ? reduction_mode : NULL;
    wrap->ops.step_collective = inner->step_collective ? step_collective : NULL;
    wrap->ops.sums_ready = inner->sums_ready ? sums_ready : NULL;
    wrap->ops.prepare = inner->prepare ? prepare : NULL;
    wrap->plugin = *optim;
    wrap->plugin.struct_size = sizeof wrap->plugin;
    wrap->plugin.ops = &wrap->ops;
    wrapper_count++;
    return &wrap->plugin;
}
