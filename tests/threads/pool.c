/* The thread pool under ThreadSanitizer: a plain program, since Criterion's own processes and that
 * sanitizer exclude each other. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "host/pool.h"
#include "memory/ledger.h"

enum { N = 2000 };

typedef struct work {
    double *values; /* [N], written without atomics: each index by one thread, read after the run */
    ledger *ledger;
} work;

static void add_one(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    work *w = arg;
    w->values[i] += 1;
    ledger_free(w->ledger, ledger_alloc(w->ledger, "test", 64, 0));
}

/* === several threads, a pool inside another's body, and ticks === */

enum { CALLERS = 2, RUNS = 100, BODIES = 40, MOST = 4 };

typedef struct cell {
    _Alignas(64) long count;
} cell;

typedef struct stage {
    pool *outer, *inner;
    cell of_outer[MOST], of_inner[MOST]; /* written without atomics: a thread's own */
    long runs;                           /* likewise: one run at a time */
    long ticks;                          /* likewise: one tick at a time */
    atomic_int met;
} stage;

static void inner_body(void *arg, size_t i, int32_t thread)
{
    (void)i;
    stage *s = arg;
    s->of_inner[thread].count++;
}

static void outer_body(void *arg, size_t i, int32_t thread)
{
    stage *s = arg;
    s->of_outer[thread].count++;
    if (i % 8 == 0)
        pool_run(s->inner, 3, inner_body, s);
    if (i == 0)
        s->runs++;
}

static void tick(void *arg)
{
    stage *s = arg;
    s->ticks++;
}

/* As many as there are threads, none of which ends before each thread has one. */
static void meet(void *arg, size_t i, int32_t thread)
{
    (void)i, (void)thread;
    stage *s = arg;
    atomic_fetch_add(&s->met, 1);
    while (atomic_load(&s->met) < pool_threads(s->outer))
        sched_yield();
}

static void *call(void *arg)
{
    stage *s = arg;
    for (int r = 0; r < RUNS; r++) {
        pool_run(s->outer, BODIES, outer_body, s);
        pool_run(s->inner, 1, inner_body, s);
        if (r == RUNS / 2)
            pool_tick_set(s->outer, tick, s);
    }
    return NULL;
}

static long sum(const cell *cells)
{
    long all = 0;
    for (int t = 0; t < MOST; t++)
        all += cells[t].count;
    return all;
}

static int callers_at_once(int32_t outer, int32_t inner)
{
    stage s = {0};
    pthread_t callers[CALLERS];
    if (pool_create(outer, NULL, &s.outer, NULL) || pool_create(inner, NULL, &s.inner, NULL))
        return 1;
    for (int i = 0; i < CALLERS; i++)
        if (pthread_create(&callers[i], NULL, call, &s))
            return 1;
    for (int i = 0; i < CALLERS; i++)
        pthread_join(callers[i], NULL);
    const long before = s.ticks;
    pool_run(s.outer, (size_t)outer, meet, &s);
    const long after_own = s.ticks - before;
    pool_destroy(s.outer);
    pool_destroy(s.inner);
    int failed = sum(s.of_outer) != CALLERS * RUNS * BODIES || s.runs != CALLERS * RUNS ||
                 sum(s.of_inner) != CALLERS * RUNS * (BODIES / 8 * 3 + 1) || after_own != 1;
    printf("%d and %d threads: %d callers, %ld runs, %ld ticks%s\n", outer, inner, (int)CALLERS,
           s.runs, s.ticks, failed ? ": WRONG" : "");
    return failed;
}

int main(void)
{
    int failed = 0;
    for (int32_t threads = 1; threads <= MOST; threads++)
        failed += callers_at_once(threads, MOST + 1 - threads);
    for (int32_t threads = 1; threads <= 4; threads++) {
        static double values[N];
        work w = {.values = values, .ledger = ledger_create()};
        pool *p;
        if (pool_create(threads, NULL, &p, NULL))
            return 1;
        for (size_t i = 0; i < N; i++)
            values[i] = 0;
        const int runs = 60;
        for (int r = 0; r < runs; r++) {
            pool_run(p, N, add_one, &w);
            if (r % 20 == 0)
                usleep(2000);
        }
        for (size_t i = 0; i < N; i++)
            failed += values[i] != runs;
        printf("%d threads: %d runs of %d indices, %d wrong\n", threads, runs, N, failed);
        pool_destroy(p);
        ledger_destroy(w.ledger);
    }
    return failed != 0;
}
