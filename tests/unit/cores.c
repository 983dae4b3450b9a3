/* Which processors threads get, on machines that are described in words: two sockets, threads that
 * share a core, parts of a machine, ranks that were bound and ranks that were not. */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/cores.h"
#include "host/pool.h"

/* Processors of one core are neighbours: 0-1, 2-3, .. */
static const char SMT[] = "pack:2 core:4 pu:2";
/* The usual numbering: 0 and 16 share the first core. */
static const char APART[] = "pack:2 core:8 pu:2(indexes=0,16,1,17,2,18,3,19,4,20,5,21,6,22,7,23,8,"
                            "24,9,25,10,26,11,27,12,28,13,29,14,30,15,31)";
static const char PLAIN[] = "pack:2 core:8 pu:1";

static const struct {
    const char *machine, *process, *caller, *launcher;
    double limit;
    int32_t asked, local_rank, local_world;
    int32_t threads;
    const char *sets; /* of each thread, the first ones; what is not bound has "process" */
    const char *why;  /* a part of the line */
    bool expected;
} samples[] = {
    /* alone */
    {PLAIN, "0-15", NULL, NULL, INFINITY, 0, 0, 1, 16, "0 1 2 3", "bound to a core each", true},
    {PLAIN, "0-15", NULL, NULL, INFINITY, 3, 0, 1, 3, "0 1 2", "3 threads on processors 0-15",
     true},
    {PLAIN, "4-7", NULL, NULL, INFINITY, 0, 0, 1, 4, "4 5 6 7", "may use 4 of the machine's 16",
     false},
    {SMT, "0-15", NULL, NULL, INFINITY, 0, 0, 1, 8, "0-1 2-3 4-5 6-7 8-9",
     "; 8 cores have 16 processors", false},
    {SMT, "0-15", NULL, NULL, INFINITY, 9, 0, 1, 9, "0 2 4 6 8 10 12 14 1",
     "bound to a processor each", true},
    {SMT, "0-15", NULL, NULL, INFINITY, 16, 0, 1, 16, "0 2 4 6 8 10 12 14 1 3 5 7 9 11 13 15",
     "bound to a processor each", true},
    {SMT, "0-15", NULL, NULL, INFINITY, 17, 0, 1, 17, "0-15 0-15", "which are fewer", false},
    {APART, "0-31", NULL, NULL, INFINITY, 0, 0, 1, 16, "0,16 1,17 2,18", "bound to a core each",
     false},
    /* one processor of each core: half cores are cores */
    {APART, "0-3", NULL, NULL, INFINITY, 0, 0, 1, 4, "0 1 2 3", "bound to a core each", false},
    {APART, "0-2,18", NULL, NULL, INFINITY, 4, 0, 1, 4, "0 1 2 18", "bound to a processor each",
     true},
    /* not bound by the launcher: shares */
    {PLAIN, "0-15", NULL, "0-15", INFINITY, 0, 1, 2, 8, "8 9 10 11 12 13 14 15",
     "the share of local rank 1 of 2 in 0-15", false},
    {PLAIN, "0-3", NULL, "0-3", INFINITY, 0, 0, 2, 2, "0 1", "the share of local rank 0 of 2",
     false},
    {PLAIN, "0-3", NULL, "0-3", INFINITY, 2, 1, 2, 2, "2 3", "the share of local rank 1 of 2",
     true},
    {PLAIN, "0-15", NULL, NULL, INFINITY, 0, 3, 4, 4, "12 13 14 15", "the share of local rank 3",
     false},
    {PLAIN, "0-15", NULL, "0-1", INFINITY, 0, 0, 2, 8, "0 1 2", "the share of local rank 0", false},
    {APART, "0-31", NULL, "0-31", INFINITY, 0, 1, 2, 8, "8,24 9,25", "the share of local rank 1",
     false},
    {APART, "0-31", NULL, "0-31", INFINITY, 16, 1, 2, 16, "8 9 10 11 12 13 14 15 24 25",
     "bound to a processor each", true},
    {APART, "0-31", NULL, "0-31", INFINITY, 17, 1, 2, 17, "0-31", "which are fewer", false},
    {PLAIN, "0-9", NULL, "0-9", INFINITY, 0, 2, 4, 2, "5 6", "the share of local rank 2 of 4",
     false},
    {PLAIN, "0-9", NULL, "0-9", INFINITY, 0, 3, 4, 2, "7 8", "the share of local rank 3 of 4",
     false},
    /* more ranks than cores, and than processors */
    {SMT, "0-3", NULL, "0-3", INFINITY, 0, 2, 4, 1, "2", "1 thread on processors 2 (the share",
     false},
    {SMT, "0-3", NULL, "0-3", INFINITY, 2, 2, 4, 2, "0-3 0-3", "which are fewer", false},
    {PLAIN, "0-1", NULL, "0-1", INFINITY, 0, 2, 4, 1, "0-1", "fewer than the 4 ranks here", false},
    /* bound by the launcher: its own, however many there are besides */
    {PLAIN, "4-7", NULL, "0-15", INFINITY, 0, 1, 4, 4, "4 5 6 7", "bound this rank", true},
    {PLAIN, "4-7", NULL, NULL, INFINITY, 0, 1, 4, 4, "4 5 6 7", "bound this rank", true},
    {PLAIN, "0-2", NULL, "0-9", INFINITY, 0, 0, 4, 3, "0 1 2", "bound this rank", true},
    {APART, "1,17", NULL, "0-31", INFINITY, 0, 1, 16, 1, "1,17", "the calling one, left as it is",
     true},
    {APART, "1,17", NULL, "0-31", INFINITY, 2, 1, 16, 2, "1 17", "bound to a processor each", true},
    /* a socket for several ranks */
    {PLAIN, "8-15", NULL, "0-15", INFINITY, 0, 5, 8, 2, "8-15 8-15", "about 4 of 8 ranks", false},
    {PLAIN, "8-15", NULL, "0-15", INFINITY, 0, 1, 2, 8, "8 9 10", "bound this rank", true},
    /* an OpenMP runtime has bound the calling thread; the place stays its own */
    {PLAIN, "0-3", "0", NULL, INFINITY, 0, 0, 1, 4, "0 1 2 3",
     "alone is bound to 0, as by OMP_PROC_BIND", false},
    {PLAIN, "0-3", "2", NULL, INFINITY, 0, 0, 1, 4, "2 1 0 3", "alone is bound to 2", false},
    {SMT, "0-7", "5", NULL, INFINITY, 2, 0, 1, 2, "0-1 2-3", "alone is bound to 5", false},
    /* limits of time: threads anywhere, since who else is there is not known */
    {PLAIN, "0-15", NULL, NULL, 2.5, 0, 0, 1, 2, "0-15 0-15", "grants the time of 2.5 to 1 rank",
     false},
    {PLAIN, "0-15", NULL, "0-15", 6, 0, 1, 2, 3, "0-15 0-15", "grants the time of 6 to 2 ranks",
     false},
    {PLAIN, "0-15", NULL, NULL, 0.2, 0, 0, 1, 1, "0-15", "1 thread on", false},
    {PLAIN, "0-3", NULL, NULL, 4, 0, 0, 1, 4, "0 1 2 3", "bound to a core each", false},
    {PLAIN, "0-15", NULL, NULL, 2, 4, 0, 1, 4, "0-15 0-15", "not bound to these;", false},
    /* a virtual machine without cores */
    {"pu:4", "0-3", NULL, NULL, INFINITY, 0, 0, 1, 4, "0 1 2 3", "bound to a core each", true},
};

static hwloc_bitmap_t set_of(const char *list)
{
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    cr_assert_eq(hwloc_bitmap_list_sscanf(set, list), 0);
    return set;
}

static void check_sets(size_t sample, const cores *c, const char *want)
{
    char *words = strdup(want), *rest = NULL;
    int32_t i = 0;
    for (char *w = strtok_r(words, " ", &rest); w; w = strtok_r(NULL, " ", &rest), i++) {
        char *got = NULL;
        cr_assert_lt(i, c->threads, "sample %zu", sample);
        hwloc_bitmap_list_asprintf(&got, c->sets[i]);
        cr_expect_str_eq(got, w, "sample %zu: thread %d on %s instead of %s", sample, i, got, w);
        free(got);
    }
    free(words);
}

Test(cores, threads_get_what_is_this_rank_s)
{
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        hwloc_topology_t topology;
        cr_assert_eq(hwloc_topology_init(&topology), 0);
        cr_assert_eq(hwloc_topology_set_synthetic(topology, samples[i].machine), 0);
        cr_assert_eq(hwloc_topology_load(topology), 0);
        const char *names[3] = {samples[i].process,
                                samples[i].caller ? samples[i].caller : samples[i].process,
                                samples[i].launcher ? samples[i].launcher : samples[i].process};
        hwloc_bitmap_t sets[3];
        for (int k = 0; k < 3; k++)
            sets[k] = set_of(names[k]);
        cores_facts facts = {.topology = topology,
                             .process = sets[0],
                             .caller = sets[1],
                             .launcher = samples[i].launcher ? sets[2] : NULL,
                             .limit = samples[i].limit,
                             .machine =
                                 hwloc_bitmap_weight(hwloc_topology_get_topology_cpuset(topology))};
        cores c;
        cr_assert(cores_choose(&c, samples[i].asked, samples[i].local_rank, samples[i].local_world,
                               &facts));
        cr_expect_eq(c.threads, samples[i].threads, "sample %zu: %d threads: %s", i, c.threads,
                     c.why);
        cr_expect(strstr(c.why, samples[i].why), "sample %zu: %s", i, c.why);
        cr_expect_neq(c.surprising, samples[i].expected, "sample %zu: %s", i, c.why);
        if (c.threads == samples[i].threads)
            check_sets(i, &c, samples[i].sets);
        cores_release(&c);
        for (int k = 0; k < 3; k++)
            hwloc_bitmap_free(sets[k]);
        hwloc_topology_destroy(topology);
    }
}

/* Ranks that were left unbound share nothing, and all are as large. */
Test(cores, shares_are_equal_and_apart)
{
    hwloc_topology_t topology;
    cr_assert_eq(hwloc_topology_init(&topology), 0);
    cr_assert_eq(hwloc_topology_set_synthetic(topology, APART), 0);
    cr_assert_eq(hwloc_topology_load(topology), 0);
    hwloc_const_cpuset_t all = hwloc_topology_get_topology_cpuset(topology);
    for (int32_t world = 1; world <= 32; world++) {
        hwloc_bitmap_t taken = hwloc_bitmap_alloc();
        int32_t threads = 0;
        for (int32_t rank = 0; rank < world; rank++) {
            cores_facts facts = {topology, all, all, all, INFINITY, 32};
            cores c;
            cr_assert(cores_choose(&c, 0, rank, world, &facts));
            cr_expect(rank == 0 || c.threads == threads, "%d ranks", world);
            threads = c.threads;
            for (int32_t t = 0; t < c.threads; t++) {
                cr_expect_not(hwloc_bitmap_intersects(taken, c.sets[t]), "rank %d of %d", rank,
                              world);
                hwloc_bitmap_or(taken, taken, c.sets[t]);
            }
            cores_release(&c);
        }
        cr_expect_eq(threads, world <= 16 ? 16 / world : 1, "%d ranks: %d threads", world, threads);
        hwloc_bitmap_free(taken);
    }
    hwloc_topology_destroy(topology);
}

/* === this machine === */

static void read_binding(void *arg, size_t i, int32_t thread)
{
    (void)i;
    cpu_set_t *sets = arg;
    pthread_getaffinity_np(pthread_self(), sizeof sets[0], &sets[thread]);
}

/* What each thread of a pool may use, the caller included. */
static int32_t bindings(int32_t threads, const launch *l, cpu_set_t *sets)
{
    pool *p;
    cr_assert_eq(pool_create(threads, l, &p, NULL), ZDS_OK);
    threads = pool_threads(p);
    cr_assert_leq(threads, 64);
    memset(sets, 0, 64 * sizeof *sets);
    for (int again = 0; again < 1000; again++) {
        bool all = true;
        pool_run(p, 1000, read_binding, sets);
        for (int32_t t = 0; t < threads; t++)
            all = all && CPU_COUNT(&sets[t]) > 0;
        if (all)
            break;
        usleep(100);
    }
    pool_destroy(p);
    return threads;
}

Test(cores, the_pool_s_threads_are_bound_apart, .timeout = 60)
{
    cpu_set_t sets[64], all;
    cr_assert_eq(sched_getaffinity(0, sizeof all, &all), 0);
    if (CPU_COUNT(&all) < 2 || bindings(0, NULL, sets) < 2)
        cr_skip_test("this machine has one core for this test");
    int32_t threads = bindings(2, NULL, sets);
    cr_assert_eq(threads, 2);
    cr_expect(CPU_EQUAL(&sets[0], &all), "the calling thread is left as it is");
    cr_expect_gt(CPU_COUNT(&sets[1]), 0);
    cr_expect_lt(CPU_COUNT(&sets[1]), CPU_COUNT(&all));
}

static void *sleep_long(void *arg)
{
    pause();
    return arg;
}

/* As an OpenMP runtime leaves it: the calling thread bound to one processor, another not. */
Test(cores, a_bound_caller_does_not_bind_the_pool, .timeout = 60)
{
    cpu_set_t sets[64], all, first;
    pthread_t other;
    cr_assert_eq(sched_getaffinity(0, sizeof all, &all), 0);
    int32_t threads = bindings(0, NULL, sets);
    if (CPU_COUNT(&all) < 2 || threads < 2)
        cr_skip_test("this machine has one core for this test");
    cr_assert_eq(pthread_create(&other, NULL, sleep_long, NULL), 0);
    CPU_ZERO(&first);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&first) == 0; i++)
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &first);
    cr_assert_eq(sched_setaffinity(0, sizeof first, &first), 0);
    cr_expect_eq(bindings(0, NULL, sets), threads);
    cr_expect(CPU_EQUAL(&sets[0], &first));
    for (int32_t t = 1; t < threads; t++)
        cr_expect_not(CPU_EQUAL(&sets[t], &first), "thread %d runs where the caller is bound", t);
}
