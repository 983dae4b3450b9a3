/* The thread pool: every index once, nested runs inline, runs in quick and slow succession. */
#include <criterion/criterion.h>
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
        cr_assert_eq(pool_create(threads[t], 1, &p, NULL), ZDS_OK);
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
    cr_assert_eq(pool_create(3, 1, &p, NULL), ZDS_OK);
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
    cr_assert_eq(pool_create(3, 1, &n.p, NULL), ZDS_OK);
    pool_run(n.p, 20, outer, &n);
    cr_assert_eq(atomic_load(&n.inner), 200);
    cr_assert_eq(atomic_load(&n.moved), 0);
    pool_destroy(n.p);
}

Test(pool, a_wrong_number_of_threads_is_refused)
{
    pool *p;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(pool_create(-1, 1, &p, &error), ZDS_ERR_INVALID);
    cr_assert_not_null(error.text);
    cr_assert_eq(pool_create(100000, 1, &p, &error), ZDS_ERR_INVALID);
    zds_error_clear(&error);
}
