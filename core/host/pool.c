/* The rank's threads: one pool, bound to cores, asleep outside engine work. A run is announced by a
 * generation number that sleepers wait on with a futex; indices are handed out from one range a
 * thread, then from the others' ranges. */
#include "host/pool.h"

#include <errno.h>
#include <hwloc.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/error.h"

enum { SPINS = 400 }; /* about 10 us: a run that follows at once finds its threads awake */

typedef struct range {
    _Alignas(64) atomic_size_t next;
    size_t end;
} range;

typedef struct worker {
    pool *owner;
    pthread_t thread;
    int32_t index;
} worker;

struct pool {
    int32_t threads;
    _Atomic uint32_t generation; /* futex: one more a run */
    _Atomic uint32_t busy;       /* futex: workers that have not finished the run */
    atomic_bool stop;
    void (*body)(void *, size_t, int32_t);
    void *arg;
    range *ranges;   /* [threads] */
    worker *workers; /* [threads - 1] */
    int32_t started;
    hwloc_topology_t topology;
    hwloc_cpuset_t *cores; /* [threads]: where each is bound; NULL entries are not */
};

static _Thread_local int32_t inside = -1; /* the thread's index while it runs a body */

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(pool *p, int32_t thread)
{
    inside = thread;
    for (int32_t k = 0; k < p->threads; k++) {
        range *r = &p->ranges[(thread + k) % p->threads];
        for (;;) {
            size_t i = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
            if (i >= r->end)
                break;
            p->body(p->arg, i, thread);
        }
    }
    inside = -1;
}

static void *worker_main(void *argument)
{
    worker *w = argument;
    pool *p = w->owner;
    if (p->cores && p->cores[w->index])
        hwloc_set_cpubind(p->topology, p->cores[w->index], HWLOC_CPUBIND_THREAD);
    uint32_t seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load(&p->generation) == seen; i++)
            relax();
        while (atomic_load(&p->generation) == seen)
            futex_wait(&p->generation, seen);
        seen++;
        if (atomic_load(&p->stop))
            return NULL;
        work(p, w->index);
        if (atomic_fetch_sub(&p->busy, 1) == 1)
            futex_wake(&p->busy, 1);
    }
}

void pool_run(pool *p, size_t n, void (*body)(void *, size_t, int32_t), void *arg)
{
    if (p->threads == 1 || n == 1 || inside >= 0) {
        int32_t thread = inside >= 0 ? inside : 0;
        int32_t before = inside;
        inside = thread;
        for (size_t i = 0; i < n; i++)
            body(arg, i, thread);
        inside = before;
        return;
    }
    size_t threads = (size_t)p->threads;
    for (size_t t = 0; t < threads; t++) {
        atomic_store_explicit(&p->ranges[t].next,
                              n / threads * t + (t < n % threads ? t : n % threads),
                              memory_order_relaxed);
        size_t after = t + 1;
        p->ranges[t].end = n / threads * after + (after < n % threads ? after : n % threads);
    }
    p->body = body;
    p->arg = arg;
    atomic_store(&p->busy, (uint32_t)p->threads - 1);
    atomic_fetch_add(&p->generation, 1);
    futex_wake(&p->generation, p->threads - 1);
    work(p, 0);
    for (int i = 0; i < SPINS && atomic_load(&p->busy); i++)
        relax();
    for (uint32_t left; (left = atomic_load(&p->busy)) != 0;)
        futex_wait(&p->busy, left);
}

int32_t pool_threads(const pool *p)
{
    return p->threads;
}

/* The cores of this process's binding, one cpuset each; with fewer than `threads` nothing is bound.
 * False without memory. */
static bool choose_cores(pool *p)
{
    if (hwloc_topology_init(&p->topology) != 0)
        return false;
    p->cores = calloc((size_t)p->threads, sizeof *p->cores);
    hwloc_cpuset_t allowed = hwloc_bitmap_alloc();
    if (!p->cores || !allowed || hwloc_topology_load(p->topology) != 0 ||
        hwloc_get_cpubind(p->topology, allowed, HWLOC_CPUBIND_PROCESS) != 0)
        goto done;
    int cores = hwloc_get_nbobjs_inside_cpuset_by_type(p->topology, allowed, HWLOC_OBJ_CORE);
    if (cores < p->threads)
        goto done;
    for (int32_t i = 1; i < p->threads; i++) {
        hwloc_obj_t core =
            hwloc_get_obj_inside_cpuset_by_type(p->topology, allowed, HWLOC_OBJ_CORE, (unsigned)i);
        p->cores[i] = core ? hwloc_bitmap_dup(core->cpuset) : NULL;
    }
done:
    hwloc_bitmap_free(allowed);
    return p->cores && allowed;
}

/* Processors that this process may use for itself: all of its binding if it was bound to fewer than
 * the machine has, else its share. */
static int32_t own_processors(int32_t local_world)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int32_t allowed = CPU_COUNT(&set);
    bool bound = allowed < sysconf(_SC_NPROCESSORS_ONLN);
    int32_t share = bound || local_world < 1 ? allowed : allowed / local_world;
    return share < 1 ? 1 : share;
}

zds_status pool_create(int32_t threads, int32_t local_world, pool **out, zds_error *error)
{
    if (threads < 0 || threads > 4096)
        return error_set(
            error, ZDS_ERR_INVALID,
            "threads: %d is not a number of threads; give 1 to 4096, or 0 for this rank's cores",
            threads);
    pool *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the thread pool");
    p->threads = threads ? threads : own_processors(local_world);
    p->ranges = aligned_alloc(64, (size_t)p->threads * sizeof *p->ranges);
    p->workers = calloc((size_t)p->threads, sizeof *p->workers);
    bool enough = p->ranges && p->workers;
    if (enough && p->threads > 1) /* reading the topology takes milliseconds */
        enough = choose_cores(p);
    if (!enough) {
        pool_destroy(p);
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the thread pool");
    }
    for (int32_t i = 1; i < p->threads; i++) {
        worker *w = &p->workers[p->started];
        *w = (worker){.owner = p, .index = i};
        int code = pthread_create(&w->thread, NULL, worker_main, w);
        if (code != 0) {
            pool_destroy(p);
            return error_set(
                error, ZDS_ERR_MEMORY,
                "thread %d of %d could not be started (error %d); ask for fewer threads", i,
                threads, code);
        }
        p->started++;
    }
    *out = p;
    return ZDS_OK;
}

void pool_destroy(pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->generation, 1);
    futex_wake(&p->generation, p->threads);
    for (int32_t i = 0; i < p->started; i++)
        pthread_join(p->workers[i].thread, NULL);
    for (int32_t i = 0; p->cores && i < p->threads; i++)
        if (p->cores[i])
            hwloc_bitmap_free(p->cores[i]);
    if (p->topology)
        hwloc_topology_destroy(p->topology);
    free(p->cores);
    free(p->workers);
    free(p->ranges);
    free(p);
}
