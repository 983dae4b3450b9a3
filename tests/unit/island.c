/* The island itself, without an engine: memory that only it can use, work that is late and in any
 * legal order, errors that come late; its optimizers give the host's bits, its ranks their sums. */
#include <math.h>
#include <signal.h>

#include "memory/services.h"
#include "optim_list.h"
#include "tier_harness.h"

/* === memory === */

Test(island, nobody_else_reads_its_memory, .signal = SIGSEGV)
{
    world w = world_make();
    tier *t = tier_make(&w, "island", ISLAND, NULL);
    slab s = slab_make(t, 100);
    cr_assert_not_null(s.block.pointer);
    signal(SIGSEGV, SIG_DFL); /* sanitizers have a handler of their own */
    char first = *(volatile char *)s.block.pointer;
    (void)first;
}

Test(island, nobody_else_writes_its_memory, .signal = SIGSEGV)
{
    world w = world_make();
    tier *t = tier_make(&w, "island", ISLAND, NULL);
    slab s = slab_make(t, 100);
    signal(SIGSEGV, SIG_DFL);
    *(volatile char *)s.block.pointer = 1;
}

Test(island, a_view_is_of_its_own_memory_alone)
{
    world w = world_make();
    tier *t = tier_make(&w, "island", ISLAND, NULL);
    slab s = slab_make(t, 4096), view;
    char host[16], got[16];
    OK(tier_adopt(t, (char *)s.block.pointer + 100, 16, &view, error));
    OK(tier_fill(tier_in(&view, 0), ZDS_U8, 7, 16, NULL, NULL, error));
    tier_free(&view);
    OK(tier_copy(tier_at(got), tier_in(&s, 100), 16, NULL, NULL, error));
    for (int i = 0; i < 16; i++)
        cr_expect_eq(got[i], 7);
    REFUSED(tier_adopt(t, host, sizeof host, &view, error), ZDS_ERR_INVALID,
            "are no memory of the island");
    tier_free(&s);
    tier_close(t);
    world_end(&w);
}

Test(island, sums_lie_in_its_memory)
{
    world w = world_make();
    tier *t = tier_make(&w, "island", ISLAND, NULL);
    slab s = slab_make(t, 4096);
    static double host[4];
    static float values[1024];
    const zds_device here = {.space = ZDS_SPACE_HOST}, ours = t->info.device;
    const zds_segment one = {0, 1024};
    const zds_end there = {.block = &s.block, .device = ours},
                  bad = {.pointer = host, .device = here},
                  long_one = {.block = &s.block, .offset = 4096, .device = ours},
                  from_host = {.pointer = values, .device = here};
    zds_event *done;
    zds_chunk_sums c = {.struct_size = sizeof c,
                        .from = there,
                        .dtype = ZDS_F32,
                        .segments = &one,
                        .segment_stride = sizeof one,
                        .segment_count = 1,
                        .sums = there,
                        .non_finite = there};
    for (int i = 0; i < 5; i++) {
        zds_chunk_sums wrong = c;
        wrong.from = i == 0 ? from_host : i == 1 ? long_one : c.from;
        wrong.sums = i == 2 ? bad : i == 3 ? long_one : c.sums;
        wrong.non_finite = i == 4 ? bad : c.non_finite;
        services_clear(&t->services);
        cr_expect_eq(t->ops.chunk_sums(t->self, &wrong, &done), ZDS_ERR_INVALID, "%d", i);
        cr_expect(strstr(services_error(&t->services), "island"), "%d", i);
    }
    cr_expect_eq(t->ops.chunk_sums(t->self, &c, &done), ZDS_OK);
    OK(tier_wait(t, &done, error));
    tier_free(&s);
    tier_close(t);
    world_end(&w);
}

/* What the host offers to whoever computes on the island. */
Test(island, memory_of_the_device_by_the_host)
{
    world w = world_make();
    tier *t = tier_make(&w, "island", ISLAND, NULL);
    services s;
    services_init(&s, "Keeps", 0, w.memory, w.threads);
    const zds_host *host = &s.host;
    const zds_device ours = t->info.device, plain = {.space = ZDS_SPACE_HOST};
    const zds_device next = {.space = ours.space, .ordinal = ours.ordinal + 1};
    const zds_device cuda = {.space = ZDS_SPACE_CUDA};
    cr_expect_null(host->alloc_in(host, ours, 64, 0), "it computes on the host");
    services_on(&s, t, ours);
    cr_expect_null(host->alloc_in(host, next, 64, 0));
    cr_expect_null(host->alloc_in(host, cuda, 64, 0));
    cr_expect_null(host->alloc_in(host, ours, SIZE_MAX - 8, 0));
    cr_expect_null(host->alloc_in(host, ours, (size_t)1 << 60, 0));

    char *here = host->alloc_in(host, plain, 100, 0);
    cr_assert_not_null(here);
    cr_expect_eq(here[99], 0);
    cr_expect_eq(counted(&w, "Keeps", "host"), 128);
    char *there = host->alloc_in(host, ours, 100, 0),
         *far = host->alloc_in(host, ours, 10, 1 << 16);
    cr_assert(there && far);
    cr_expect_eq((uintptr_t)there % 64, 0);
    cr_expect_eq((uintptr_t)far % (1 << 16), 0);
    cr_expect_eq(counted(&w, "Keeps", "island"), 128 + (1 << 16));

    char got[100];
    slab view;
    memset(got, 1, sizeof got);
    OK(tier_adopt(t, there, sizeof got, &view, error)); /* it is the island's, and zero */
    OK(tier_copy(tier_at(got), tier_in(&view, 0), sizeof got, NULL, NULL, error));
    tier_free(&view);
    for (size_t i = 0; i < sizeof got; i++)
        cr_expect_eq(got[i], 0);
    host->free(host, here);
    host->free(host, there);
    cr_expect_eq(counted(&w, "Keeps", "host"), 0);
    cr_expect_eq(counted(&w, "Keeps", "island"), 1 << 16);
    services_destroy(&s); /* and what was not given back */
    tier_close(t);
    world_end(&w);
}

/* A plan counts as much, and has none. */
Test(island, memory_of_the_device_in_a_plan)
{
    world w = world_make();
    tier *t;
    services s;
    const zds_device device = {.space = ZDS_SPACE_TEST, .ordinal = 3};
    OK(tier_plan("test", (zds_device){.space = ZDS_SPACE_TEST}, w.memory, w.threads, &t, error));
    services_init(&s, "Keeps", 0, w.memory, w.threads);
    services_on(&s, t, device);
    char *planned = s.host.alloc_in(&s.host, device, 100, 0);
    cr_assert_not_null(planned);
    cr_expect_eq(counted(&w, "Keeps", "test"), 128);
    s.host.free(&s.host, planned);
    cr_expect_eq(counted(&w, "Keeps", "test"), 0);
    services_destroy(&s);
    tier_close(t);
    world_end(&w);
}

/* === late, and in any legal order === */

typedef struct gate {
    zds_event base;
    volatile int open;
} gate;

static zds_status gate_test(zds_event *event, int32_t *done)
{
    *done = ((gate *)(void *)event)->open;
    return ZDS_OK;
}

static zds_status gate_wait(zds_event *event)
{
    (void)event;
    return ZDS_ERR_INTERNAL; /* nobody here may sleep on it */
}

static void gate_release(zds_event *event)
{
    (void)event;
}

static const zds_event_ops gate_ops = {.struct_size = sizeof gate_ops,
                                       .flags = ZDS_EVENT_ANY_THREAD,
                                       .test = gate_test,
                                       .wait = gate_wait,
                                       .release = gate_release};

/* What waits for an event is not done before it, nor what is behind it on its stream; what is
 * beside it is. */
Test(island, streams_keep_their_order_and_no_other)
{
    world w = world_make();
    tier *t = tier_make(&w, "island", ISLAND, NULL);
    slab s = slab_make(t, 3);
    gate g = {.base = {&gate_ops}};
    zds_event *waits[] = {&g.base}, *first, *second, *beside;
    zds_stream *a, *b;
    OK(tier_stream_create(t, &a, error));
    OK(tier_stream_create(t, &b, error));
    const tier_order gated = {.waits = waits, .wait_count = 1, .stream = a}, behind = {.stream = a},
                     other = {.stream = b};
    OK(tier_fill(tier_in(&s, 0), ZDS_U8, 1, 1, &gated, &first, error));
    OK(tier_fill(tier_in(&s, 0), ZDS_U8, 2, 2, &behind, &second, error));
    OK(tier_fill(tier_in(&s, 2), ZDS_U8, 3, 1, &other, &beside, error));
    OK(tier_wait(t, &beside, error));
    int32_t done = 1;
    cr_expect_eq(first->ops->test(first, &done), ZDS_OK);
    cr_expect_eq(done, 0);
    cr_expect_eq(second->ops->test(second, &done), ZDS_OK);
    cr_expect_eq(done, 0);
    /* A stream waits for another's event. */
    cr_expect_eq(second->ops->stream_wait(second, b), ZDS_OK);
    unsigned char got[3] = {9, 9, 9};
    zds_event *copied;
    OK(tier_copy(tier_at(got), tier_in(&s, 0), 3, &other, &copied, error));
    cr_expect_eq(copied->ops->test(copied, &done), ZDS_OK);
    cr_expect_eq(done, 0);
    g.open = 1;
    OK(tier_wait(t, &copied, error));
    cr_expect(got[0] == 2 && got[1] == 2 && got[2] == 3, "%d %d %d", got[0], got[1], got[2]);
    OK(tier_wait(t, &first, error));
    OK(tier_wait(t, &second, error));
    tier_stream_destroy(t, a);
    tier_stream_destroy(t, b);
    tier_free(&s);
    tier_close(t);
    world_end(&w);
}

/* Which of eight fills of one byte is the last, when nothing orders them. */
static int last_of_eight(const world *w, int seed)
{
    enum { FILLS = 8 };
    char json[64];
    snprintf(json, sizeof json, "{\"seed\": %d, \"delay_us\": 0}", seed);
    tier *t = tier_make(w, "island", ISLAND, json);
    slab s = slab_make(t, 1);
    gate g = {.base = {&gate_ops}};
    zds_event *waits[] = {&g.base}, *done[FILLS];
    const tier_order gated = {.waits = waits, .wait_count = 1};
    for (int i = 0; i < FILLS; i++)
        OK(tier_fill(tier_in(&s, 0), ZDS_U8, i + 1, 1, &gated, &done[i], error));
    g.open = 1;
    for (int i = 0; i < FILLS; i++)
        OK(tier_wait(t, &done[i], error));
    unsigned char last = 0;
    OK(tier_copy(tier_at(&last), tier_in(&s, 0), 1, NULL, NULL, error));
    tier_free(&s);
    tier_close(t);
    return last;
}

Test(island, what_nothing_orders_has_no_order)
{
    world w = world_make();
    unsigned seen = 0;
    for (int seed = 1; seed <= 20; seed++)
        seen |= 1u << last_of_eight(&w, seed);
    cr_expect_neq(seen & (seen - 1), 0, "it is always the same one");
    world_end(&w);
}

/* === errors === */

Test(island, errors_come_late)
{
    world w = world_make();
    tier *t = tier_make(&w, "island", ISLAND, "{\"fail_after\": 3}");
    slab s = slab_make(t, 8);
    zds_stream *stream;
    zds_event *done;
    unsigned char got[8];
    OK(tier_stream_create(t, &stream, error));
    const tier_order order = {.stream = stream};
    for (int i = 0; i < 4; i++) /* the third one fails, and the fourth is not done */
        OK(tier_fill(tier_in(&s, 2 * (uint64_t)i), ZDS_U8, 1, 2, &order, NULL, error));
    OK(tier_record(t, stream, &done, error));
    REFUSED(tier_wait(t, &done, error), ZDS_ERR_IO,
            "memory tier island: an operation has failed: operation 3 on the island was to fail");
    REFUSED(tier_sync(t, stream, error), ZDS_ERR_IO, "operation 3 on the island was to fail");
    OK(tier_sync(t, stream, error));
    OK(tier_copy(tier_at(got), tier_in(&s, 0), 8, &order, NULL, error));
    OK(tier_sync(t, stream, error));
    for (int i = 0; i < 8; i++)
        cr_expect_eq(got[i], i < 4, "byte %d", i);
    tier_stream_destroy(t, stream);
    tier_free(&s);
    tier_close(t);
    world_end(&w);
}

/* === optimizers === */

enum { COUNT = 2000, FIRST_TILE = 1024, CHUNK = 1024, STEPS = 3, CHUNKS = 2, SUMS = 4 };

typedef struct run {
    world *w;
    tier *t;
    zds_stream *stream;
    services services;
    zds_optim_ops ops;
    void *self;
    zds_param param;
    zds_hyper hyper;
    zds_param_needs needs;
    zds_state_spec specs[ZDS_MAX_STATES];
    slab master, grad, scratch, states[ZDS_MAX_STATES], chunks, sums;
} run;

static float weight(uint64_t i)
{
    return (float)sin((double)i * 0.37) * 0.5f;
}

static float gradient(uint64_t i, int step)
{
    return (float)cos((double)i * 0.11 + step) * 0.1f;
}

static double number_option(const zds_plugin *plugin, const void *options, const char *name,
                            size_t count, size_t i)
{
    double values[2] = {NAN, NAN};
    options_floats(plugin, options, name, values, count);
    return values[i];
}

static uint64_t state_bytes(const zds_state_spec *spec)
{
    return spec->kind == ZDS_STATE_ELEMENT ? COUNT * zds_dtype_size(spec->dtype)
           : spec->kind == ZDS_STATE_BLOCK ? (COUNT + spec->block - 1) / spec->block * spec->bytes
                                           : spec->bytes;
}

static void *at(const slab *s, uint64_t offset)
{
    return s->block.pointer ? (char *)s->block.pointer + offset : NULL;
}

static void run_open(run *r, world *w, const char *tier_file, const zds_plugin *plugin,
                     const char *options_json)
{
    static const int64_t shape[] = {40, 50};
    *r = (run){.w = w, .t = tier_make(w, tier_file, tier_file, NULL)};
    const void *options = options_make(plugin, options_json);
    OK(tier_stream_create(r->t, &r->stream, error));
    services_init(&r->services, plugin->name, 0, w->memory, w->threads);
    if (r->t->on_device)
        services_on(&r->services, r->t, r->t->info.device);
    const uint64_t in_host = counted(w, plugin->name, "host");
    memcpy(&r->ops, plugin->ops, sizeof r->ops);
    const zds_optim_env env = {.struct_size = sizeof env,
                               .space = r->t->info.device.space,
                               .ordinal = r->t->info.device.ordinal,
                               .world_size = 1,
                               .trainable_params = 1,
                               .trainable_elements = COUNT};
    cr_assert_eq(r->ops.create(&r->services.host, options, &env, &r->self), ZDS_OK, "%s",
                 services_error(&r->services));
    r->hyper = (zds_hyper){.struct_size = sizeof r->hyper,
                           .lr = number_option(plugin, options, "lr", 1, 0),
                           .beta1 = number_option(plugin, options, "betas", 2, 0),
                           .beta2 = number_option(plugin, options, "betas", 2, 1),
                           .momentum = number_option(plugin, options, "momentum", 1, 0),
                           .weight_decay = number_option(plugin, options, "weight_decay", 1, 0)};
    r->param = (zds_param){.struct_size = sizeof r->param,
                           .name = "w",
                           .ndim = 2,
                           .shape = shape,
                           .numel = COUNT,
                           .width_mult = 1,
                           .fan_out_mult = 1,
                           .role = ZDS_ROLE_MATRIX};
    r->needs = (zds_param_needs){.struct_size = sizeof r->needs,
                                 .states = r->specs,
                                 .state_stride = sizeof *r->specs,
                                 .hyper = &r->hyper};
    cr_assert_eq(r->ops.describe(r->self, &r->param, &r->needs), ZDS_OK);
    r->master = slab_make(r->t, COUNT * sizeof(float));
    r->grad = slab_make(r->t, COUNT * sizeof(float));
    r->scratch = slab_make(r->t, r->ops.scratch_bytes);
    r->chunks = slab_make(r->t, SUMS * CHUNKS * sizeof(double));
    r->sums = slab_make(r->t, SUMS * sizeof(double));
    float values[COUNT];
    for (uint64_t i = 0; i < COUNT; i++)
        values[i] = weight(i);
    OK(tier_copy(tier_in(&r->master, 0), tier_at(values), sizeof values, NULL, NULL, error));
    for (uint32_t s = 0; s < r->needs.state_count; s++) {
        const zds_state_spec *spec = &r->needs.states[s];
        r->states[s] = slab_make(r->t, state_bytes(spec));
        if (spec->kind == ZDS_STATE_ELEMENT)
            OK(tier_fill(tier_in(&r->states[s], 0), spec->dtype, spec->initial, COUNT, NULL, NULL,
                         error));
    }
    zds_param_step all = {
        .struct_size = sizeof all, .param = &r->param, .hyper = &r->hyper, .part_count = COUNT};
    const zds_param_steps params = {sizeof params, 1, sizeof all, &all};
    if (r->ops.prepare)
        cr_assert_eq(r->ops.prepare(r->self, &params), ZDS_OK);
    if (r->t->on_device) /* all that it keeps is there */
        cr_expect_eq(counted(w, plugin->name, "host"), in_host, "%s", plugin->name);
}

static void run_close(run *r)
{
    if (r->ops.destroy)
        r->ops.destroy(r->self);
    tier_stream_destroy(r->t, r->stream);
    tier_free(&r->master);
    tier_free(&r->grad);
    tier_free(&r->scratch);
    tier_free(&r->chunks);
    tier_free(&r->sums);
    for (uint32_t s = 0; s < r->needs.state_count; s++)
        tier_free(&r->states[s]);
    services_destroy(&r->services);
    tier_close(r->t);
}

static void *state_at(const run *r, uint32_t s, uint64_t first)
{
    const zds_state_spec *spec = &r->needs.states[s];
    return at(&r->states[s], spec->kind == ZDS_STATE_ELEMENT ? first * zds_dtype_size(spec->dtype)
                             : spec->kind == ZDS_STATE_BLOCK ? first / spec->block * spec->bytes
                                                             : 0);
}

static zds_tile tile_at(const run *r, uint64_t first, uint64_t count, void *const *states,
                        const zds_hyper *hyper)
{
    return (zds_tile){.struct_size = sizeof(zds_tile),
                      .param = &r->param,
                      .hyper = hyper,
                      .first = first,
                      .count = count,
                      .master = at(&r->master, first * sizeof(float)),
                      .grad = at(&r->grad, first * sizeof(float)),
                      .states = states,
                      .sums = at(&r->sums, 0),
                      .chunk_sums = at(&r->chunks, first / CHUNK * sizeof(double)),
                      .chunk_stride = CHUNKS};
}

/* What the core does between norms and step. */
static void add_up(const run *r)
{
    double chunks[SUMS * CHUNKS], sums[SUMS] = {0};
    const tier_order order = {.stream = r->stream};
    OK(tier_copy(tier_at(chunks), tier_in(&r->chunks, 0), sizeof chunks, &order, NULL, error));
    OK(tier_sync(r->t, r->stream, error));
    for (uint32_t q = 0; q < r->needs.tensor_norms; q++)
        for (int c = 0; c < CHUNKS; c++)
            sums[q] += chunks[q * CHUNKS + (uint32_t)c];
    OK(tier_copy(tier_in(&r->sums, 0), tier_at(sums), sizeof sums, &order, NULL, error));
    OK(tier_sync(r->t, r->stream, error));
}

#define CALL(r, call)                                                                              \
    cr_assert_eq(call, ZDS_OK, "%s: %s", (r)->services.name, services_error(&(r)->services))

/* All that a call gets is gone when it returns, as the header says. */
static void spoil(void *bytes, size_t count)
{
    memset(bytes, 0xa5, count);
}

static void run_step(run *r, int step)
{
    float grad[COUNT];
    for (uint64_t i = 0; i < COUNT; i++)
        grad[i] = gradient(i, step);
    const tier_order order = {.stream = r->stream};
    OK(tier_copy(tier_in(&r->grad, 0), tier_at(grad), sizeof grad, &order, NULL, error));
    OK(tier_sync(r->t, r->stream, error));
    const zds_step_ctx ctx = {.struct_size = sizeof ctx,
                              .step = step,
                              .grad_scale = 0.5,
                              .scratch = at(&r->scratch, 0),
                              .scratch_bytes = r->ops.scratch_bytes,
                              .stream = r->stream};
    const bool whole = r->needs.whole_tensor;
    const int tiles = whole ? 1 : 2;
    for (int call = 0; call < 5; call++) {
        zds_step_ctx given = ctx;
        zds_hyper hyper = r->hyper;
        void *states[2][ZDS_MAX_STATES] = {{NULL}};
        for (uint32_t s = 0; s < r->needs.state_count; s++) {
            states[0][s] = state_at(r, s, 0);
            states[1][s] = state_at(r, s, FIRST_TILE);
        }
        zds_tile two[2] = {tile_at(r, 0, whole ? COUNT : FIRST_TILE, states[0], &hyper),
                           tile_at(r, FIRST_TILE, COUNT - FIRST_TILE, states[1], &hyper)};
        const zds_tiles list = {sizeof list, (size_t)tiles, sizeof two[0], two};
        void *rest[ZDS_MAX_STATES] = {NULL};
        for (uint32_t s = 0; s < r->needs.state_count; s++)
            rest[s] = r->needs.states[s].kind >= ZDS_STATE_TENSOR ? states[0][s] : NULL;
        zds_param_step all = {.struct_size = sizeof all,
                              .param = &r->param,
                              .hyper = &hyper,
                              .states = rest,
                              .has_grad = 1,
                              .sums = at(&r->sums, 0)};
        const zds_param_steps params = {sizeof params, 1, sizeof all, &all};
        if (call == 0 && r->ops.begin_step)
            CALL(r, r->ops.begin_step(r->self, &params, &given));
        if (call == 1 && r->needs.tensor_norms) {
            CALL(r, r->ops.norms(r->self, &list, &given));
            add_up(r);
        }
        if (call == 2 && r->needs.tensor_norms && r->ops.sums_ready)
            CALL(r, r->ops.sums_ready(r->self, &params, &given));
        if (call == 3)
            CALL(r, r->ops.step(r->self, &list, &given));
        if (call == 4 && r->ops.end_step)
            CALL(r, r->ops.end_step(r->self, &given));
        spoil(&given, sizeof given);
        spoil(&hyper, sizeof hyper);
        spoil(states, sizeof states);
        spoil(two, sizeof two);
        spoil(rest, sizeof rest);
        spoil(&all, sizeof all);
    }
    OK(tier_sync(r->t, r->stream, error));
}

static unsigned char *content(const run *r, const slab *s)
{
    unsigned char *bytes = malloc(s->block.bytes + 1);
    cr_assert_not_null(bytes);
    OK(tier_copy(tier_at(bytes), tier_in(s, 0), s->block.bytes, NULL, NULL, error));
    (void)r;
    return bytes;
}

static void same(const run *a, const run *b, const slab *mine, const slab *theirs, const char *what)
{
    unsigned char *x = content(a, mine), *y = content(b, theirs);
    cr_expect_eq(memcmp(x, y, mine->block.bytes), 0, "%s: %s differ", a->services.name, what);
    free(x);
    free(y);
}

static void compare(world *w, const char *file, const char *name, const char *options)
{
    char path[128];
    run host, island;
    snprintf(path, sizeof path, "lib/zds/plugins/%s", file);
    run_open(&host, w, CPU, plugin_of(path, ZDS_KIND_OPTIM, name), options);
    run_open(&island, w, ISLAND, plugin_of(ISLAND, ZDS_KIND_OPTIM, name), options);
    cr_assert_eq(island.ops.spaces, ZDS_SPACE_BIT(ZDS_SPACE_TEST));
    for (int step = 1; step <= STEPS; step++) {
        run_step(&host, step);
        run_step(&island, step);
    }
    unsigned char *moved = content(&host, &host.master);
    const float first = weight(1);
    cr_expect_neq(memcmp(moved + sizeof first, &first, sizeof first), 0, "%s does nothing", name);
    free(moved);
    same(&host, &island, &host.master, &island.master, "weights");
    for (uint32_t s = 0; s < host.needs.state_count; s++)
        same(&host, &island, &host.states[s], &island.states[s], host.needs.states[s].name);
    run_close(&host);
    run_close(&island);
}

Test(island, optimizers_give_the_bits_of_the_host)
{
    world w = world_make();
    for (size_t i = 0; i < OPTIM_CASES; i++)
        compare(&w, optim_cases[i].file, optim_cases[i].name, optim_cases[i].options);
    compare(&w, "optim_muon", "Muon", "{}"); /* whole */
    world_end(&w);
}

/* A kernel that is given the host's memory, in any place, does not get to read it. */
static void step_with_hosts(int which)
{
    world w = world_make();
    run r;
    run_open(&r, &w, ISLAND, plugin_of(ISLAND, ZDS_KIND_OPTIM, "AdamW"), "{}");
    static float host[COUNT];
    void *states[ZDS_MAX_STATES] = {state_at(&r, 0, 0), which == 2 ? host : state_at(&r, 1, 0)};
    zds_tile tile = tile_at(&r, 0, COUNT, states, &r.hyper);
    tile.master = which == 0 ? host : tile.master;
    tile.grad = which == 1 ? host : tile.grad;
    tile.sums = which == 3 ? (double *)(void *)host : tile.sums;
    const zds_tiles list = {sizeof list, 1, sizeof tile, &tile};
    const zds_step_ctx ctx = {.struct_size = sizeof ctx,
                              .step = 1,
                              .grad_scale = 1,
                              .scratch = which == 4 ? host : at(&r.scratch, 0),
                              .stream = r.stream};
    signal(SIGABRT, SIG_DFL); /* sanitizers have a handler of their own */
    r.ops.step(r.self, &list, &ctx);
}

#define WITH_HOSTS(name, which)                                                                    \
    Test(island, an_optimizer_reads_no_host_##name, .signal = SIGABRT)                             \
    {                                                                                              \
        step_with_hosts(which);                                                                    \
    }
WITH_HOSTS(master, 0)
WITH_HOSTS(gradient, 1)
WITH_HOSTS(state, 2)
WITH_HOSTS(sums, 3)
WITH_HOSTS(scratch, 4)

Test(island, an_optimizer_needs_a_stream)
{
    world w = world_make();
    run r;
    run_open(&r, &w, ISLAND, plugin_of(ISLAND, ZDS_KIND_OPTIM, "SGD"), "{}");
    void *states[ZDS_MAX_STATES] = {NULL};
    zds_tile tile = tile_at(&r, 0, COUNT, states, &r.hyper);
    const zds_tiles list = {sizeof list, 1, sizeof tile, &tile};
    const zds_step_ctx ctx = {.struct_size = sizeof ctx, .step = 1, .grad_scale = 1};
    cr_expect_eq(r.ops.step(r.self, &list, &ctx), ZDS_ERR_INVALID);
    cr_expect(strstr(services_error(&r.services), "needs a stream"));
    run_close(&r);
    world_end(&w);
}
