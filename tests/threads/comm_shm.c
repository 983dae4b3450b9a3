/* The ranks of comm shm as threads of one process, so that ThreadSanitizer sees every access of all
 * of them. */
#include <pthread.h>

#include "../unit/comm_values.h"
#include "one_window.h"

enum { COUNT = 50000, ROUNDS = 6 };

static void collect(const rank *me, zds_status (*f)(void *, const zds_coll *, zds_event **),
                    const void *src, void *dst, uint64_t count, int32_t peer)
{
    zds_event *done = NULL;
    zds_coll c = {.struct_size = sizeof c, .src = src, .dst = dst, .count = count, .peer = peer};
    NEED(!f(me->self, &c, &done) && !finish(done), "rank %d", (int)me->rank);
}

static void check(const float *dst, uint64_t count, double (*want)(const rank *, uint64_t),
                  const rank *me)
{
    for (uint64_t i = 0; i < count; i++)
        NEED(dst[i] == want(me, i), "rank %d element %llu", (int)me->rank, (unsigned long long)i);
}

static double own_sum(const rank *me, uint64_t i)
{
    return reduced(me->size, ZDS_SUM, ZDS_F32, (uint64_t)me->rank * COUNT + i);
}

static double all_sum(const rank *me, uint64_t i)
{
    return reduced(me->size, ZDS_SUM, ZDS_F32, i);
}

static double gathered(const rank *me, uint64_t i)
{
    (void)me;
    return value_of((int32_t)(i / COUNT), i % COUNT, ZDS_F32);
}

/* Sources are rewritten between operations: that peers are through with them must be visible. */
static void work(const rank *me, float *src, float *dst, float *shared)
{
    uint64_t all = (uint64_t)me->size * COUNT;
    for (int i = 0; i < ROUNDS; i++) {
        fill(src, ZDS_F32, all, me->rank, 0);
        collect(me, me->ops->reduce_scatter, src, dst, COUNT, 0);
        check(dst, COUNT, own_sum, me);
        fill(src, ZDS_F32, COUNT, me->rank, 0);
        collect(me, me->ops->all_reduce, src, src, COUNT, 0);
        check(src, COUNT, all_sum, me);
        fill(src, ZDS_F32, COUNT, me->rank, 0);
        collect(me, me->ops->all_gather, src, dst, COUNT, 0);
        check(dst, all, gathered, me);
        fill(shared + (uint64_t)me->rank * COUNT, ZDS_F32, COUNT, me->rank, 0);
        collect(me, me->ops->all_gather, shared + (uint64_t)me->rank * COUNT, shared, COUNT, 0);
        check(shared, all, gathered, me);
        collect(me, me->ops->barrier, NULL, NULL, 0, 0);
        int32_t next = (me->rank + 1) % me->size, last = (me->rank + me->size - 1) % me->size;
        if (me->rank % 2) {
            collect(me, me->ops->send, src, NULL, COUNT, next);
            collect(me, me->ops->recv, NULL, dst, COUNT, last);
        } else {
            collect(me, me->ops->recv, NULL, dst, COUNT, last);
            collect(me, me->ops->send, src, NULL, COUNT, next);
        }
        for (uint64_t e = 0; e < COUNT; e++)
            NEED(dst[e] == value_of(last, e, ZDS_F32), "message");
    }
}

typedef struct thread_rank {
    rank me;
    int port;
} thread_rank;

static void *look_at(void *arg)
{
    zds_event *count = arg;
    for (int32_t over = 0; !over;)
        NEED(!count->ops->test(count, &over), "test");
    return NULL;
}

/* What was written before a count is read after it; meanwhile another thread of each rank tests the
 * event, and operations go on. */
static void count(const rank *me, float *shared)
{
    zds_region counters = {.struct_size = sizeof counters};
    NEED(!me->ops->mem_alloc(me->self, 80, ZDS_MEM_COUNTERS, &counters), "alloc");
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        zds_event *used, *done;
        pthread_t other;
        uint64_t all = round * (uint64_t)me->size;
        NEED(!me->ops->counter_wait(me->self, &counters, 0, all, "a use", &used) && used, "wait");
        NEED(!pthread_create(&other, NULL, look_at, used), "thread");
        collect(me, me->ops->barrier, NULL, NULL, 0, 0);
        shared[me->rank] = (float)round;
        NEED(!me->ops->counter_add(me->self, &counters, 0), "add");
        pthread_join(other, NULL);
        used->ops->release(used);
        for (int32_t r = 0; r < me->size; r++)
            NEED(shared[r] == (float)round, "round %d", (int)round);
        NEED(!me->ops->counter_add(me->self, &counters, 9), "add");
        NEED(!me->ops->counter_wait(me->self, &counters, 9, all, NULL, &done), "wait");
        NEED(!finish(done), "wait");
    }
    me->ops->mem_free(me->self, &counters);
}

static void *run_rank(void *arg)
{
    thread_rank *t = arg;
    rank *me = &t->me;
    zds_comm_env env = rank_env(me->rank, me->size, t->port, 20000);
    bootstrap *b = bootstrap_open(&env);
    env.bootstrap = bootstrap_offer(b);
    NEED(!me->ops->init(&test_host, NULL, &env, &me->self), "init");
    bootstrap_close(b);
    uint64_t bytes = (uint64_t)me->size * COUNT * sizeof(float);
    zds_region symmetric = {.struct_size = sizeof symmetric},
               shared = {.struct_size = sizeof shared};
    NEED(!me->ops->mem_alloc(me->self, bytes, ZDS_MEM_SYMMETRIC, &symmetric), "alloc");
    NEED(!me->ops->mem_alloc(me->self, bytes, ZDS_MEM_SHARED, &shared), "alloc");
    float *src = host_alloc(NULL, bytes, 0), *dst = host_alloc(NULL, bytes, 0);
    work(me, symmetric.base, dst, shared.base);
    work(me, src, dst, shared.base);
    count(me, shared.base);
    void *world = me->self, *child = NULL;
    NEED(!me->ops->split(world, me->rank / 2, 0, &child), "split");
    thread_rank half = *t;
    half.me.self = child;
    collect(&half.me, me->ops->barrier, NULL, NULL, 0, 0);
    me->ops->finalize(child);
    me->ops->mem_free(world, &symmetric);
    me->ops->mem_free(world, &shared);
    me->ops->finalize(world);
    free(src);
    free(dst);
    return NULL;
}

int main(void)
{
    for (int32_t n = 2; n <= 4; n += 2) { /* messages go round between even and odd ranks */
        thread_rank ranks[4];
        pthread_t threads[4];
        int port = test_port();
        for (int32_t r = 0; r < n; r++) {
            ranks[r] = (thread_rank){{zds_plugin_v1[0]->ops, NULL, r, n}, port};
            NEED(!pthread_create(&threads[r], NULL, run_rank, &ranks[r]), "thread");
        }
        for (int32_t r = 0; r < n; r++)
            pthread_join(threads[r], NULL);
        munmap(window, ARENA);
        printf("%d ranks as threads: reductions, gathers, messages, a split\n", (int)n);
    }
    return 0;
}
