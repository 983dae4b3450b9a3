/* Ranks on islands: what they send is registered memory that only the island can use, in the order
 * of its streams. Each rank is a process. */
#include <math.h>
#include <sys/wait.h>
#include <time.h>

#include "host/bootstrap.h"
#include "memory/services.h"
#include "tier_harness.h"

enum { COUNT = 3000, CHUNK = 1024 };

typedef struct rank {
    int32_t rank, size;
    world w;
    tier *t;
    zds_stream *stream;
    services services;
    const zds_comm_ops *ops;
    void *self;
    bootstrap *met;
} rank;

/* In a rank, which is a process without a test of its own. */
#define NEED(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: rank %d: %s: ", __FILE__, __LINE__, (int)r->rank, #condition); \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, " [%s]\n", services_error(&r->services));                              \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)
#define DONE(call) NEED((call) == ZDS_OK, "failed")

static void rank_open(rank *r, int32_t number, int32_t size, int port, const char *options)
{
    const zds_plugin *plugin = plugin_of(ISLAND, ZDS_KIND_COMM, "island");
    *r = (rank){.rank = number, .size = size, .w = world_make(), .ops = plugin->ops};
    zds_comm_env env = {.struct_size = sizeof env,
                        .rank = number,
                        .world_size = size,
                        .local_rank = number,
                        .local_world_size = size,
                        .master_addr = "127.0.0.1",
                        .master_port = port,
                        .timeout_ms = 20000,
                        .device = {.space = ZDS_SPACE_TEST}};
    services_init(&r->services, "island", number, r->w.memory, r->w.threads);
    r->t = tier_make(&r->w, "island", ISLAND, NULL);
    DONE(tier_stream_create(r->t, &r->stream, NULL));
    NEED(r->ops->suits(&env) > 0, "its own space");
    r->met = bootstrap_open(&env);
    env.bootstrap = bootstrap_offer(r->met);
    zds_status status =
        r->ops->init(&r->services.host, options_make(plugin, options), &env, &r->self);
    bootstrap_finish(r->met);
    DONE(status);
}

static void rank_close(rank *r)
{
    r->ops->finalize(r->self);
    bootstrap_close(r->met);
    tier_stream_destroy(r->t, r->stream);
    tier_close(r->t);
    services_destroy(&r->services);
    world_end(&r->w);
}

/* Runs `body` on every rank. */
static void run_ranks(int32_t size, const char *options, void (*body)(rank *r))
{
    static int count;
    const int port = 1 + (getpid() * 16 + count++) % 60000;
    pid_t pid[8];
    for (int32_t i = 0; i < size; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            rank r;
            rank_open(&r, i, size, port, options);
            body(&r);
            rank_close(&r);
            _exit(0);
        }
    }
    for (int32_t i = 0; i < size; i++) {
        int status;
        cr_assert_eq(waitpid(pid[i], &status, 0), pid[i]);
        cr_expect_eq(status, 0, "rank %d of %d: 0x%x", (int)i, (int)size, (unsigned)status);
    }
}

/* A multiple of 6, so that means of 2 and 3 are whole. */
static float value(int32_t r, uint64_t i)
{
    return (float)(6 * (int64_t)((i * 7 + (uint64_t)r * 5) % 13) - 36);
}

static zds_region registered(rank *r, const slab *s)
{
    zds_region region = {.struct_size = sizeof region};
    DONE(r->ops->mem_register(r->self, s->block.pointer, s->block.bytes, s->block.device, &region));
    NEED(region.base == s->block.pointer && region.bytes == s->block.bytes &&
             region.device.space == ZDS_SPACE_TEST,
         "region");
    return region;
}

static zds_coll coll_of(const rank *r, const slab *src, const slab *dst, uint64_t count)
{
    return (zds_coll){.struct_size = sizeof(zds_coll),
                      .src = src->block.pointer,
                      .dst = dst->block.pointer,
                      .count = count,
                      .src_dtype = ZDS_F32,
                      .dst_dtype = ZDS_F32,
                      .op = ZDS_SUM,
                      .stream = r->stream};
}

typedef zds_status (*collective)(void *self, const zds_coll *coll, zds_event **done);

/* Values there, the operation, and its result back: nobody waits but for the stream. */
static void on_stream(rank *r, const slab *src, const slab *dst, float *values, float *got,
                      collective function, const zds_coll *coll)
{
    const tier_order order = {.stream = r->stream};
    zds_event *done = NULL;
    for (uint64_t i = 0; i < (uint64_t)r->size * COUNT; i++)
        values[i] = value(r->rank, i);
    DONE(tier_copy(tier_in(src, 0), tier_at(values), src->block.bytes, &order, NULL, NULL));
    DONE(tier_fill(tier_in(dst, 0), ZDS_F32, -1, dst->block.bytes / 4, &order, NULL, NULL));
    DONE(function(r->self, coll, &done));
    DONE(tier_copy(tier_at(got), tier_in(dst, 0), dst->block.bytes, &order, NULL, NULL));
    DONE(tier_sync(r->t, r->stream, NULL));
    done->ops->release(done);
}

static float sum(const rank *r, uint64_t i)
{
    float all = 0;
    for (int32_t k = 0; k < r->size; k++)
        all += value(k, i);
    return all;
}

static double chunk_sum(const float *x, uint64_t count)
{
    double lane[16] = {0};
    for (uint64_t i = 0; i < count; i++)
        lane[i % 16] += (double)x[i] * (double)x[i];
    for (int half = 8; half; half /= 2)
        for (int k = 0; k < half; k++)
            lane[k] += lane[k + half];
    return lane[0];
}

static void check_fused(rank *r, const slab *src, const slab *dst, float *values, float *got)
{
    const zds_segment segment = {10, 2000};
    double sums[2];
    uint64_t bad = 7;
    const zds_fused fused = {.struct_size = sizeof fused,
                             .prescale = 0.5,
                             .postscale = 1,
                             .segments = &segment,
                             .segment_stride = sizeof segment,
                             .segment_count = 1,
                             .chunk_sums = sums,
                             .non_finite = &bad};
    zds_coll coll = coll_of(r, src, dst, COUNT);
    coll.fused = &fused;
    on_stream(r, src, dst, values, got, r->ops->reduce_scatter, &coll);
    for (uint64_t i = 0; i < COUNT; i++)
        NEED(got[i] == sum(r, (uint64_t)r->rank * COUNT + i) / 2, "element %d", (int)i);
    NEED(bad == 0, "non-finite");
    for (uint64_t c = 0; c < 2; c++) {
        const uint64_t left = segment.count - c * CHUNK;
        NEED(sums[c] == chunk_sum(got + segment.first + c * CHUNK, left < CHUNK ? left : CHUNK),
             "chunk %d", (int)c);
    }
}

static void operations(rank *r)
{
    const uint64_t all = (uint64_t)r->size * COUNT;
    float *values = malloc(all * 4), *got = malloc(all * 4);
    slab src = slab_make(r->t, all * 4), dst = slab_make(r->t, all * 4);
    zds_region regions[2] = {registered(r, &src), registered(r, &dst)};
    zds_coll coll = coll_of(r, &src, &dst, all);
    on_stream(r, &src, &dst, values, got, r->ops->all_reduce, &coll);
    for (uint64_t i = 0; i < all; i++)
        NEED(got[i] == sum(r, i), "element %d is %g", (int)i, (double)got[i]);
    coll.count = COUNT;
    on_stream(r, &src, &dst, values, got, r->ops->all_gather, &coll);
    for (uint64_t i = 0; i < all; i++)
        NEED(got[i] == value((int32_t)(i / COUNT), i % COUNT), "element %d", (int)i);
    coll = coll_of(r, &src, &dst, COUNT);
    on_stream(r, &src, &dst, values, got, r->ops->all_to_all, &coll);
    for (uint64_t i = 0; i < all; i++)
        NEED(got[i] == value((int32_t)(i / COUNT), (uint64_t)r->rank * COUNT + i % COUNT),
             "element %d", (int)i);
    check_fused(r, &src, &dst, values, got);
    for (int i = 0; i < 2; i++)
        r->ops->mem_unregister(r->self, &regions[i]);
    tier_free(&src);
    tier_free(&dst);
    free(values);
    free(got);
}

Test(island_comm, operations_of_one_rank)
{
    run_ranks(1, NULL, operations);
}

Test(island_comm, operations_of_two_ranks)
{
    run_ranks(2, NULL, operations);
}

Test(island_comm, operations_of_three_ranks_on_a_slow_link)
{
    run_ranks(3, "{\"delay_gbs\": 1, \"delay_us\": 500}", operations);
}

/* Without a stream: after events, and done when its own event is. A communicator of some ranks. */
static void beside_streams(rank *r)
{
    slab s = slab_make(r->t, 64);
    zds_region region = registered(r, &s);
    zds_event *filled, *done;
    void *child;
    float got[16];
    DONE(tier_fill(tier_in(&s, 0), ZDS_F32, r->rank + 1, 16, NULL, &filled, NULL));
    DONE(r->ops->split(r->self, 0, -r->rank, &child)); /* all, in reverse order */
    zds_coll coll = coll_of(r, &s, &s, 16);
    coll.stream = NULL;
    coll.waits = &filled;
    coll.wait_count = 1;
    coll.peer = 0; /* the last rank */
    DONE(r->ops->broadcast(child, &coll, &done));
    DONE(tier_wait(r->t, &done, NULL));
    DONE(tier_wait(r->t, &filled, NULL));
    DONE(tier_copy(tier_at(got), tier_in(&s, 0), sizeof got, NULL, NULL, NULL));
    for (int i = 0; i < 16; i++)
        NEED(got[i] == (float)r->size, "element %d is %g", i, (double)got[i]);
    r->ops->finalize(child);
    r->ops->mem_unregister(r->self, &region);
    tier_free(&s);
}

Test(island_comm, events_and_other_communicators)
{
    run_ranks(2, NULL, beside_streams);
}

/* What was not registered, or is the host's, is refused, as a device's backend must. */
static void unregistered(rank *r)
{
    slab s = slab_make(r->t, 64);
    zds_event *done;
    float host[16] = {0};
    zds_region region = {.struct_size = sizeof region};
    zds_coll coll = coll_of(r, &s, &s, 16);
    NEED(r->ops->all_reduce(r->self, &coll, &done) == ZDS_ERR_INVALID, "not registered");
    NEED(strstr(services_error(&r->services), "that was registered"), "text");
    coll.src = coll.dst = host;
    NEED(r->ops->all_reduce(r->self, &coll, &done) == ZDS_ERR_INVALID, "the host's");
    NEED(r->ops->mem_register(r->self, host, sizeof host, s.block.device, &region) ==
             ZDS_ERR_UNSUPPORTED,
         "the host's memory");
    NEED(r->ops->mem_alloc(r->self, 64, ZDS_MEM_SYMMETRIC, &region) == ZDS_ERR_UNSUPPORTED,
         "mem_alloc");
    services_clear(&r->services);
    tier_free(&s);
}

Test(island_comm, memory_is_registered_first)
{
    run_ranks(1, NULL, unregistered);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Two transfers share the link: together they take twice the time, never less. */
static void slowly(rank *r)
{
    slab s = slab_make(r->t, 4000);
    zds_region region = registered(r, &s);
    zds_event *done[2];
    zds_coll coll = coll_of(r, &s, &s, 1000);
    coll.stream = NULL;
    const double start = now();
    for (int i = 0; i < 2; i++)
        DONE(r->ops->all_reduce(r->self, &coll, &done[i]));
    for (int i = 0; i < 2; i++)
        DONE(tier_wait(r->t, &done[i], NULL));
    NEED(now() - start >= 2 * (0.01 + 4000 / 1e6), "it took %g s", now() - start);
    r->ops->mem_unregister(r->self, &region);
    tier_free(&s);
}

Test(island_comm, a_link_takes_its_time)
{
    run_ranks(1, "{\"delay_gbs\": 0.001, \"delay_us\": 10000}", slowly);
}
