/* Messages, sub-communicators, shared memory, and many operations in flight. */
#include <criterion/criterion.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "comm_values.h"

static zds_coll bytes_coll(const void *src, void *dst, uint64_t count, int32_t peer, uint64_t tag)
{
    return (zds_coll){.struct_size = sizeof(zds_coll),
                      .tag = tag,
                      .src = src,
                      .dst = dst,
                      .count = count,
                      .src_dtype = ZDS_U8,
                      .dst_dtype = ZDS_U8,
                      .peer = peer};
}

/* Everybody sends to everybody, several messages at once, of sizes for every way of travelling. */
static void messages(rank *me, void *arg)
{
    (void)arg;
    static const uint64_t sizes[] = {0, 1, 192, 193, 1000000};
    enum { SIZES = 5, LARGE = 1000000 };
    zds_region region = {.struct_size = sizeof region};
    NEED(!me->ops->mem_alloc(me->self, LARGE, ZDS_MEM_SYMMETRIC, &region), "alloc");
    unsigned char *private = host_alloc(NULL, LARGE, 0);
    memset(region.base, 10 + me->rank, LARGE);
    memset(private, 20 + me->rank, LARGE);
    zds_event *done[16][SIZES][2][2];
    unsigned char *in[16][SIZES][2];
    for (int32_t p = 0; p < me->size; p++)
        for (int k = 0; k < 2 * SIZES && p != me->rank; k++) {
            uint64_t n = sizes[k / 2];
            zds_coll s = bytes_coll(k % 2 ? region.base : private, NULL, n, p, (uint64_t)k);
            unsigned char *into = in[p][k / 2][k % 2] = host_alloc(NULL, n, 0);
            zds_coll r = bytes_coll(NULL, into, n, p, (uint64_t)k);
            NEED(!me->ops->send(me->self, &s, &done[p][k / 2][k % 2][0]), "send");
            NEED(!me->ops->recv(me->self, &r, &done[p][k / 2][k % 2][1]), "recv");
        }
    for (int32_t p = 0; p < me->size; p++)
        for (int k = 0; k < 2 * SIZES && p != me->rank; k++) {
            NEED(!finish(done[p][k / 2][k % 2][1]) && !finish(done[p][k / 2][k % 2][0]), "wait");
            for (uint64_t i = 0; i < sizes[k / 2]; i++)
                NEED(in[p][k / 2][k % 2][i] == (k % 2 ? 10 : 20) + p, "message %d from %d", k,
                     (int)p);
            free(in[p][k / 2][k % 2]);
        }
    free(private);
    me->ops->mem_free(me->self, &region);
}

static double sum_of_ranks(const rank *me, void *self, double mine)
{
    double sum = -1;
    zds_event *done = NULL;
    zds_coll c = {.struct_size = sizeof c,
                  .src = &mine,
                  .dst = &sum,
                  .count = 1,
                  .src_dtype = ZDS_F64,
                  .dst_dtype = ZDS_F64};
    NEED(!me->ops->all_reduce(self, &c, &done) && !finish(done), "all_reduce");
    return sum;
}

/* Even and odd ranks apart, in reversed order; then both again together, a child of a child. */
static void splits(rank *me, void *arg)
{
    (void)arg;
    void *child = NULL, *grandchild = NULL;
    for (int again = 0; again < 3; again++) {
        NEED(!me->ops->split(me->self, me->rank % 2, -me->rank, &child), "split");
        double want = 0, got = sum_of_ranks(me, child, me->rank + 1);
        for (int32_t r = me->rank % 2; r < me->size; r += 2)
            want += r + 1;
        NEED(got == want, "sum %g, not %g", got, want);
        NEED(!me->ops->split(child, 0, me->rank, &grandchild), "split of a child");
        int32_t n = (me->size - me->rank % 2 + 1) / 2;
        unsigned char mine = (unsigned char)me->rank, all[16] = {0};
        zds_coll c = bytes_coll(&mine, all, 1, 0, 5);
        zds_event *done = NULL;
        NEED(!me->ops->all_gather(grandchild, &c, &done) && !finish(done), "all_gather");
        for (int32_t i = 0; i < n; i++)
            NEED(all[i] == me->rank % 2 + 2 * i, "order of the grandchild");
        NEED(!me->ops->all_gather(child, &c, &done) && !finish(done), "all_gather");
        for (int32_t i = 0; i < n; i++)
            NEED(all[i] == me->rank % 2 + 2 * (n - 1 - i), "order of the child");
        /* The child's own region, and the world's in the child. */
        for (int k = 0; k < 2; k++) {
            zds_region region = {.struct_size = sizeof region};
            void *owner = k ? me->self : child;
            NEED(!me->ops->mem_alloc(owner, 100000, ZDS_MEM_SYMMETRIC, &region), "alloc");
            fill(region.base, ZDS_F32, 25000, me->rank, 0);
            zds_coll b = {
                .struct_size = sizeof b, .src = region.base, .dst = region.base, .count = 25000};
            NEED(!me->ops->broadcast(child, &b, &done) && !finish(done), "broadcast");
            int32_t root = me->rank % 2 + 2 * (n - 1);
            for (uint64_t i = 0; i < 25000; i++)
                NEED(get_value(region.base, ZDS_F32, i) == value_of(root, i, ZDS_F32), "broadcast");
            me->ops->mem_free(owner, &region);
        }
        me->ops->finalize(grandchild);
        me->ops->finalize(child);
    }
    NEED(sum_of_ranks(me, me->self, 1) == me->size, "the world after its children");
}

/* One copy for the node: what an owner writes is there for all, through both addresses. */
static void shared(rank *me, void *arg)
{
    (void)arg;
    enum { PART = 100000 };
    zds_region region = {.struct_size = sizeof region};
    uint64_t n = (uint64_t)me->size * PART;
    NEED(!me->ops->mem_alloc(me->self, n * 4, ZDS_MEM_SHARED, &region), "alloc");
    NEED(region.base != region.read_only, "a mapping of its own for readers");
    float *base = region.base;
    for (uint64_t i = 0; i < n; i++)
        NEED(base[i] == 0, "zeroed");
    zds_event *done = NULL;
    zds_coll barrier = {.struct_size = sizeof barrier};
    NEED(!me->ops->barrier(me->self, &barrier, &done) && !finish(done), "barrier");
    for (int32_t round = 0; round < 20; round++) {
        fill(base + (uint64_t)me->rank * PART, ZDS_F32, PART, me->rank, (uint64_t)round);
        zds_coll c = {.struct_size = sizeof c,
                      .src = base + (uint64_t)me->rank * PART,
                      .dst = base,
                      .count = PART};
        NEED(!me->ops->all_gather(me->self, &c, &done) && !finish(done), "all_gather");
        const float *view = region.read_only;
        for (uint64_t i = 0; i < n; i++)
            NEED(view[i] == value_of((int32_t)(i / PART), (uint64_t)round + i % PART, ZDS_F32),
                 "round %d element %llu", (int)round, (unsigned long long)i);
        NEED(!me->ops->barrier(me->self, &barrier, &done) && !finish(done), "barrier");
    }
    pid_t child = fork(); /* a write through the readers' address must fault */
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile float *)(uintptr_t)region.read_only = 1;
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    NEED(status != 0, "a store through read_only");
    me->ops->mem_free(me->self, &region);
}

/* Far more operations than the ring holds, each waiting for the one before it, tested and released
 * out of order. */
static void pipeline(rank *me, void *arg)
{
    (void)arg;
    enum { OPS = 200 };
    static double value[OPS + 1];
    static zds_event *done[OPS];
    value[0] = 1;
    for (int i = 0; i < OPS; i++) {
        zds_coll c = {.struct_size = sizeof c,
                      .tag = (uint64_t)i,
                      .src = &value[i],
                      .dst = &value[i + 1],
                      .count = 1,
                      .src_dtype = ZDS_F64,
                      .dst_dtype = ZDS_F64,
                      .op = i % 2 ? ZDS_AVG : ZDS_SUM,
                      .waits = i ? &done[i - 1] : NULL,
                      .wait_count = i != 0};
        NEED(!me->ops->all_reduce(me->self, &c, &done[i]), "issue");
    }
    int32_t over = 0;
    while (!over) {
        NEED(!done[OPS - 1]->ops->test(done[OPS - 1], &over), "test");
        if (!over)
            usleep(100);
    }
    for (int i = OPS - 1; i >= 0; i--)
        NEED(!finish(done[i]), "wait");
    /* Each SUM multiplies by the number of ranks, each AVG leaves it. */
    NEED(fabs(log(value[OPS]) - OPS / 2 * log(me->size)) < 1e-9 * OPS, "%g", value[OPS]);
}

/* Lengths and kinds in a random but agreed order, against a barrier-free peer that lags. */
static void mixture(rank *me, void *arg)
{
    (void)arg;
    enum { LARGE = 300000, ROUNDS = 300 };
    zds_region region = {.struct_size = sizeof region};
    NEED(!me->ops->mem_alloc(me->self, LARGE * 4, ZDS_MEM_SYMMETRIC, &region), "alloc");
    float *private = host_alloc(NULL, LARGE * 4, 0), *out = host_alloc(NULL, LARGE * 4, 0);
    uint64_t seed = 12345;
    for (int i = 0; i < ROUNDS; i++) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        uint64_t n = (seed >> 33) % (LARGE / 4) + 1;
        int kind = (int)(seed >> 20) % 4;
        kind = kind < 0 ? -kind : kind;
        /* Only some ranks have their source in a region. */
        float *src = ((seed >> 40) + (uint64_t)me->rank) % 2 ? region.base : private;
        zds_event *done = NULL;
        zds_coll c = {
            .struct_size = sizeof c, .tag = (uint64_t)i, .src = src, .dst = out, .count = n};
        uint64_t length = kind == 0 || kind == 3 ? n * (uint64_t)me->size : n;
        if (length > LARGE)
            continue;
        fill(src, ZDS_F32, length, me->rank, (uint64_t)i);
        zds_status (*const call[])(void *, const zds_coll *, zds_event **) = {
            me->ops->reduce_scatter, me->ops->all_reduce, me->ops->all_gather, me->ops->all_to_all};
        if (kind == 2 && n * (uint64_t)me->size > LARGE)
            continue;
        NEED(!call[kind](me->self, &c, &done) && !finish(done), "round %d", i);
        for (uint64_t e = 0; e < n; e += 1 + n / 50) {
            uint64_t at = (uint64_t)i + e;
            uint64_t own = (uint64_t)me->rank * n;
            double want = kind == 0   ? reduced(me->size, ZDS_SUM, ZDS_F32, at + own)
                          : kind == 1 ? reduced(me->size, ZDS_SUM, ZDS_F32, at)
                          : kind == 2 ? value_of(0, at, ZDS_F32)
                                      : value_of(0, at + own, ZDS_F32);
            NEED(out[e] == want, "round %d kind %d element %llu", i, kind, (unsigned long long)e);
        }
        if (i % 50 == me->rank)
            usleep(2000);
    }
    free(private);
    free(out);
    me->ops->mem_free(me->self, &region);
}

/* A rank may take its leave as soon as its own part is done, while others have not seen that yet:
 * its absence must not be taken for the lack of a part that came before. By test, which looks at
 * the peers' health more often than wait. */
static void farewells(rank *me, void *arg)
{
    enum { FAREWELLS = 500 };
    (void)arg;
    for (int k = 0; k < FAREWELLS; k++) {
        void *child = NULL;
        NEED(!me->ops->split(me->self, 0, me->rank, &child), "split %d", k);
        const unsigned char mine = (unsigned char)(me->rank + k);
        unsigned char all[16] = {0}, from = 0;
        const int32_t next = (me->rank + 1) % me->size, last = (me->rank + me->size - 1) % me->size;
        const zds_coll gather = bytes_coll(&mine, all, 1, 0, 1),
                       s = bytes_coll(&mine, NULL, 1, next, 2),
                       r = bytes_coll(NULL, &from, 1, last, 2);
        zds_event *done[3] = {0};
        NEED(!me->ops->all_gather(child, &gather, &done[0]) &&
                 !me->ops->send(child, &s, &done[1]) && !me->ops->recv(child, &r, &done[2]),
             "issue %d", k);
        for (int i = 0; i < 3; i++) {
            for (int32_t over = 0; !over; sched_yield())
                NEED(!done[i]->ops->test(done[i], &over), "operation %d of communicator %d", i, k);
            done[i]->ops->release(done[i]);
        }
        for (int32_t p = 0; p < me->size; p++)
            NEED(all[p] == (unsigned char)(p + k), "%d of rank %d in communicator %d", all[p],
                 (int)p, k);
        NEED(from == (unsigned char)(last + k), "%d in communicator %d", from, k);
        me->ops->finalize(child);
    }
}

/* Memory that somebody else made. */
typedef struct lent {
    int file;
    char *base; /* of a shared mapping */
} lent;

enum { LENT_BYTES = 400000, LENT_FIRST = 5000 }; /* not on a page's border */

static lent make_lent(void)
{
    lent l = {.file = memfd_create("test-tier", MFD_CLOEXEC)};
    NEED(l.file >= 0 && ftruncate(l.file, LENT_BYTES + LENT_FIRST) == 0, "memfd");
    l.base = mmap(NULL, LENT_BYTES + LENT_FIRST, PROT_READ | PROT_WRITE, MAP_SHARED, l.file, 0);
    NEED(l.base != MAP_FAILED, "mmap");
    return l;
}

/* Peers read registered memory where it is: they need no help of its owner for what would not fit
 * into a pipe. */
static void read_without_help(rank *me, float *src, float *out)
{
    zds_region shared = {.struct_size = sizeof shared};
    zds_event *done = NULL;
    NEED(!me->ops->mem_alloc(me->self, 64, ZDS_MEM_SHARED, &shared), "alloc");
    _Atomic int32_t *finished = shared.base;
    zds_coll c = {.struct_size = sizeof c, .src = src, .dst = out, .count = LENT_BYTES / 4};
    fill(src, ZDS_F32, c.count, me->rank, 0);
    NEED(!me->ops->broadcast(me->self, &c, &done), "broadcast");
    const double start = seconds();
    while (me->rank == 0 && atomic_load(finished) < me->size - 1 && seconds() - start < 10)
        usleep(1000);
    NEED(me->rank || atomic_load(finished) == me->size - 1, "peers wait for the owner");
    NEED(!finish(done), "broadcast");
    for (uint64_t i = 0; i < c.count; i += 97)
        NEED(out[i] == value_of(0, i, ZDS_F32), "element %llu", (unsigned long long)i);
    atomic_fetch_add(finished, me->rank != 0);
    me->ops->mem_free(me->self, &shared);
}

/* All operations that read peers' sources, in memory that was registered. */
static void registered(rank *me, void *arg)
{
    (void)arg;
    enum { COUNT = 20000 };
    lent l = make_lent();
    zds_region region = {.struct_size = sizeof region};
    const zds_device host = {.space = ZDS_SPACE_HOST};
    for (int again = 0; again < 3; again++) {
        char *own = l.base + LENT_FIRST;
        NEED(!me->ops->mem_register(me->self, own, LENT_BYTES, host, &region), "register");
        NEED(region.base == own && region.bytes == LENT_BYTES, "the region is that memory");
        float *src = region.base, *out = host_alloc(NULL, LENT_BYTES, 0);
        zds_event *done = NULL;
        fill(src, ZDS_F32, COUNT * (uint64_t)me->size, me->rank, (uint64_t)again);
        zds_coll c = {.struct_size = sizeof c, .src = src, .dst = out, .count = COUNT};
        NEED(!me->ops->reduce_scatter(me->self, &c, &done) && !finish(done), "reduce_scatter");
        for (uint64_t i = 0; i < COUNT; i += 97)
            NEED(out[i] == reduced(me->size, ZDS_SUM, ZDS_F32,
                                   (uint64_t)again + (uint64_t)me->rank * COUNT + i),
                 "element %llu", (unsigned long long)i);
        NEED(!me->ops->all_gather(me->self, &c, &done) && !finish(done), "all_gather");
        for (uint64_t i = 0; i < COUNT * (uint64_t)me->size; i += 97)
            NEED(out[i] == value_of((int32_t)(i / COUNT), (uint64_t)again + i % COUNT, ZDS_F32),
                 "element %llu", (unsigned long long)i);
        c.dst = src; /* of all_reduce the result is read by peers too */
        NEED(!me->ops->all_reduce(me->self, &c, &done) && !finish(done), "all_reduce");
        for (uint64_t i = 0; i < COUNT; i += 97)
            NEED(src[i] == reduced(me->size, ZDS_SUM, ZDS_F32, (uint64_t)again + i), "element %llu",
                 (unsigned long long)i);
        read_without_help(me, src, out);
        me->ops->mem_unregister(me->self, &region);
        free(out);
    }
    munmap(l.base, LENT_BYTES + LENT_FIRST);
    close(l.file);
    /* A region of its own is registered already, which does no harm. */
    zds_region own = {.struct_size = sizeof own};
    NEED(!me->ops->mem_alloc(me->self, 5000, ZDS_MEM_SYMMETRIC, &own), "alloc");
    NEED(!me->ops->mem_register(me->self, own.base, 4, host, &region), "register");
    me->ops->mem_unregister(me->self, &region);
    me->ops->mem_free(me->self, &own);
}

/* What cannot be registered is refused on all ranks, and changes nothing. */
static void not_registered(rank *me, void *arg)
{
    (void)arg;
    lent l = make_lent();
    char *heap = host_alloc(NULL, LENT_BYTES, 0);
    zds_region region = {.struct_size = sizeof region};
    const zds_device host = {.space = ZDS_SPACE_HOST}, other = {.space = ZDS_SPACE_CUDA};
    zds_event *done = NULL;
    zds_coll barrier = {.struct_size = sizeof barrier};
    for (int kind = 0; kind < 3; kind++) {
        bool odd = me->rank == me->size - 1;
        void *base = kind == 0 && odd ? heap : l.base;
        if (kind == 2 && odd)
            close(l.file);
        zds_status status = me->ops->mem_register(me->self, base, LENT_BYTES,
                                                  kind == 1 && odd ? other : host, &region);
        NEED(status == ZDS_ERR_UNSUPPORTED, "kind %d: %d", kind, (int)status);
        char name[32];
        snprintf(name, sizeof name, "rank %d", (int)me->size - 1);
        NEED(strstr(last_error, name), "kind %d names the rank", kind);
        NEED(!region.base && !region.handle, "nothing is there");
        NEED(!me->ops->barrier(me->self, &barrier, &done) && !finish(done), "barrier");
    }
    free(heap);
}

static void at_all_sizes(void (*body)(rank *, void *), int32_t first)
{
    for (int32_t n = first; n <= 5; n++) {
        world_run w = {.plugin = "shm", .size = n, .timeout_ms = 20000, .body = body};
        cr_expect_eq(run_world(&w), 0, "%d ranks", (int)n);
    }
}

Test(comm_world, messages, .timeout = 60)
{
    at_all_sizes(messages, 1);
}

Test(comm_world, splits, .timeout = 60)
{
    at_all_sizes(splits, 1);
}

Test(comm_world, shared, .timeout = 60)
{
    at_all_sizes(shared, 1);
}

Test(comm_world, registered, .timeout = 60)
{
    at_all_sizes(registered, 1);
}

Test(comm_world, not_registered, .timeout = 60)
{
    at_all_sizes(not_registered, 2);
}

Test(comm_world, pipeline, .timeout = 60)
{
    at_all_sizes(pipeline, 1);
}

Test(comm_world, mixture, .timeout = 60)
{
    at_all_sizes(mixture, 1);
}

Test(comm_world, farewells, .timeout = 60)
{
    at_all_sizes(farewells, 2);
}
