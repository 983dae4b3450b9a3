/* The thread pool: every index once, nested runs inline, runs of several threads and pools, the
 * tick between bodies. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "host/pool.h"

typedef struct counts {
    pool *p;
    atomic_int *hits;
    atomic_int wrong_thread;
} counts;

static void hit(void *arg, size_t i, int32_t thread)
{
    counts *c = arg;
    atomic_fetch_add(&c->hits[i], 1);
    if (thread < 0 || thread >= pool_threads(c->p))
        atomic_fetch_add(&c->wrong_thread, 1);
}

static void check_all(pool *p, size_t n)
{
    counts c = {.p = p, .hits = calloc(n + 1, sizeof(atomic_int))};
    pool_run(p, n, hit, &c);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(atomic_load(&c.hits[i]), 1, "index %zu of %zu was run %d times", i, n,
                     atomic_load(&c.hits[i]));
    cr_assert_eq(atomic_load(&c.wrong_thread), 0);
    free(c.hits);
}

Test(pool, every_index_runs_once)
{
    static const int32_t threads[] = {1, 2, 3, 7};
    static const size_t sizes[] = {0, 1, 2, 3, 5, 7, 64, 1001};
    for (size_t t = 0; t < 4; t++) {
        pool *p;
        cr_assert_eq(pool_create(threads[t], NULL, &p, NULL), ZDS_OK);
        cr_assert_eq(pool_threads(p), threads[t]);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int again = 0; again < 20; again++)
                check_all(p, sizes[s]);
        pool_destroy(p);
    }
}

Test(pool, sleepers_wake)
{
    pool *p;
    cr_assert_eq(pool_create(3, NULL, &p, NULL), ZDS_OK);
    for (int i = 0; i < 5; i++) {
        usleep(3000); /* longer than any spin */
        check_all(p, 30);
    }
    pool_destroy(p);
}

typedef struct nest {
    pool *p;
    atomic_int inner, moved;
} nest;

typedef struct inner_arg {
    nest *n;
    int32_t thread;
} inner_arg;

static void inner(void *arg, size_t i, int32_t thread)
{
    (void)i;
    inner_arg *a = arg;
    atomic_fetch_add(&a->n->inner, 1);
    if (thread != a->thread)
        atomic_fetch_add(&a->n->moved, 1);
}

static void outer(void *arg, size_t i, int32_t thread)
{
    (void)i;
    inner_arg a = {.n = arg, .thread = thread};
    pool_run(a.n->p, 10, inner, &a);
}

Test(pool, a_run_inside_a_run_is_inline)
{
    nest n = {0};
    cr_assert_eq(pool_create(3, NULL, &n.p, NULL), ZDS_OK);
    pool_run(n.p, 20, outer, &n);
    cr_assert_eq(atomic_load(&n.inner), 200);
    cr_assert_eq(atomic_load(&n.moved), 0);
    pool_destroy(n.p);
}

/* === a pool inside another's body === */

typedef struct pair {
    pool *a, *b;
    atomic_int *in_a, *in_b; /* [threads]: bodies that run under this index now */
    atomic_int bodies, wrong, shared;
} pair;

/* Under which index of `p` a body runs: nobody else may have it meanwhile. */
static void enter(pair *t, const pool *p, atomic_int *in, int32_t thread)
{
    if (thread < 0 || thread >= pool_threads(p)) {
        atomic_fetch_add(&t->wrong, 1);
        return;
    }
    if (atomic_fetch_add(&in[thread], 1) != 0)
        atomic_fetch_add(&t->shared, 1);
}

static void body_of_b(void *arg, size_t i, int32_t thread)
{
    (void)i;
    pair *t = arg;
    enter(t, t->b, t->in_b, thread);
    atomic_fetch_add(&t->bodies, 1);
    if (thread >= 0 && thread < pool_threads(t->b))
        atomic_fetch_sub(&t->in_b[thread], 1);
}

static void same_index(void *arg, size_t i, int32_t thread)
{
    (void)i;
    inner_arg *a = arg;
    if (thread != a->thread)
        atomic_fetch_add(&a->n->moved, 1);
}

static void body_of_a(void *arg, size_t i, int32_t thread)
{
    (void)i;
    pair *t = arg;
    enter(t, t->a, t->in_a, thread);
    pool_run(t->b, 7, body_of_b, t);
    pool_run(t->b, 1, body_of_b, t);
    nest n = {.p = t->a};
    inner_arg a = {.n = &n, .thread = thread};
    pool_run(t->a, 3, same_index, &a); /* its own index afterwards */
    atomic_fetch_add(&t->wrong, atomic_load(&n.moved));
    if (thread >= 0 && thread < pool_threads(t->a))
        atomic_fetch_sub(&t->in_a[thread], 1);
}

Test(pool, a_body_that_runs_on_another_pool_has_an_index_of_that_pool, .timeout = 60)
{
    static const int32_t sizes[][2] = {{4, 1}, {4, 2}, {2, 4}, {1, 3}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        atomic_int in[2][4] = {{0}};
        pair t = {.in_a = in[0], .in_b = in[1]};
        cr_assert_eq(pool_create(sizes[s][0], NULL, &t.a, NULL), ZDS_OK);
        cr_assert_eq(pool_create(sizes[s][1], NULL, &t.b, NULL), ZDS_OK);
        for (int again = 0; again < 10; again++)
            pool_run(t.a, 40, body_of_a, &t);
        cr_expect_eq(atomic_load(&t.bodies), 10 * 40 * 8);
        cr_expect_eq(atomic_load(&t.wrong), 0, "%d and %d threads: %d wrong indices", sizes[s][0],
                     sizes[s][1], atomic_load(&t.wrong));
        cr_expect_eq(atomic_load(&t.shared), 0, "%d and %d threads: %d times two bodies at once",
                     sizes[s][0], sizes[s][1], atomic_load(&t.shared));
        pool_destroy(t.a);
        pool_destroy(t.b);
    }
}

/* === several threads of the program === */

enum { CALLERS = 3, RUNS = 200, INDICES = 50 };

static void *call_often(void *arg)
{
    pair *t = arg;
    for (int r = 0; r < RUNS; r++)
        pool_run(t->b, r % 10 ? INDICES : 1, body_of_b, t);
    return NULL;
}

Test(pool, runs_of_several_threads_come_one_after_the_other, .timeout = 60)
{
    for (int32_t threads = 1; threads <= 3; threads++) {
        atomic_int in[4] = {0};
        pair t = {.in_b = in};
        pthread_t callers[CALLERS];
        cr_assert_eq(pool_create(threads, NULL, &t.b, NULL), ZDS_OK);
        for (int i = 0; i < CALLERS; i++)
            cr_assert_eq(pthread_create(&callers[i], NULL, call_often, &t), 0);
        for (int i = 0; i < CALLERS; i++)
            pthread_join(callers[i], NULL);
        cr_expect_eq(atomic_load(&t.bodies), CALLERS * (RUNS / 10 * 9 * INDICES + RUNS / 10));
        cr_expect_eq(atomic_load(&t.wrong), 0);
        cr_expect_eq(atomic_load(&t.shared), 0, "%d threads: %d times two bodies at once", threads,
                     atomic_load(&t.shared));
        pool_destroy(t.b);
    }
}

/* === the tick === */

typedef struct clock_of_bodies {
    pool *p;
    pthread_t caller;
    size_t bodies, ticks; /* of the calling thread */
    size_t elsewhere;     /* ticks of any other */
    bool inside;          /* a body of the calling thread is running */
    size_t interrupted;   /* ticks while one was */
} clock_of_bodies;

static void nothing(void *arg, size_t i, int32_t thread)
{
    (void)arg;
    (void)i;
    (void)thread;
}

static void timed_body(void *arg, size_t i, int32_t thread)
{
    (void)i;
    (void)thread;
    clock_of_bodies *c = arg;
    if (!pthread_equal(pthread_self(), c->caller))
        return;
    c->inside = true;
    pool_run(c->p, 3, nothing, NULL); /* inline, and without ticks */
    c->bodies++;
    c->inside = false;
}

static void tick(void *arg)
{
    clock_of_bodies *c = arg;
    if (!pthread_equal(pthread_self(), c->caller)) {
        c->elsewhere++;
        return;
    }
    c->ticks++;
    c->interrupted += c->inside;
    pool_run(c->p, 2, nothing, NULL);
}

Test(pool, the_caller_ticks_once_after_each_of_its_bodies, .timeout = 60)
{
    for (int32_t threads = 1; threads <= 3; threads++) {
        clock_of_bodies c = {.caller = pthread_self()};
        cr_assert_eq(pool_create(threads, NULL, &c.p, NULL), ZDS_OK);
        pool_run(c.p, 100, timed_body, &c);
        cr_expect_eq(c.ticks, 0);
        c.bodies = 0;
        pool_tick_set(c.p, tick, &c);
        for (int r = 0; r < 50; r++)
            pool_run(c.p, 100, timed_body, &c);
        pool_run(c.p, 1, timed_body, &c);
        pool_run(c.p, 0, timed_body, &c);
        cr_expect_gt(c.bodies, 0);
        cr_expect_eq(c.ticks, c.bodies, "%d threads: %zu ticks, %zu bodies", threads, c.ticks,
                     c.bodies);
        cr_expect_eq(c.elsewhere, 0);
        cr_expect_eq(c.interrupted, 0);
        size_t before = c.ticks;
        pool_tick_set(c.p, NULL, NULL);
        pool_run(c.p, 100, timed_body, &c);
        cr_expect_eq(c.ticks, before);
        pool_destroy(c.p);
    }
}

Test(pool, a_wrong_number_of_threads_is_refused)
{
    pool *p;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(pool_create(-1, NULL, &p, &error), ZDS_ERR_INVALID);
    cr_assert_not_null(error.text);
    cr_assert_eq(pool_create(100000, NULL, &p, &error), ZDS_ERR_INVALID);
    zds_error_clear(&error);
}
