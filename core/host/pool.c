/* The rank's threads: one pool, bound to cores, asleep outside engine work. A run is announced by a
 * generation number that sleepers wait on with a futex; indices are handed out from one range a
 * thread, then from the others' ranges. */
#include "host/pool.h"

#include <assert.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/cores.h"
#include "host/error.h"
#include "host/log.h"

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
    pthread_mutex_t turn; /* held for a whole run */
    void (*body)(void *, size_t, int32_t);
    void *arg;
    void (*tick)(void *);
    void *tick_arg;
    range *ranges;   /* [threads] */
    worker *workers; /* [threads - 1] */
    int32_t started;
    char *why;
    bool surprising;
};

/* A pool whose bodies this thread runs, and its index there. Bodies of one pool may run on another,
 * so there is a list of them, the innermost first. */
typedef struct frame {
    const pool *of;
    int32_t index;
    const struct frame *outer;
} frame;

static _Thread_local const frame *innermost;

static const frame *frame_of(const pool *p)
{
    const frame *f = innermost;
    while (f && f->of != p)
        f = f->outer;
    return f;
}

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
    frame here = {.of = p, .index = thread, .outer = innermost};
    innermost = &here;
    void (*tick)(void *) = thread == 0 ? p->tick : NULL;
    for (int32_t k = 0; k < p->threads; k++) {
        range *r = &p->ranges[(thread + k) % p->threads];
        for (;;) {
            size_t i = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
            if (i >= r->end)
                break;
            p->body(p->arg, i, thread);
            if (tick)
                tick(p->tick_arg);
        }
    }
    innermost = here.outer;
}

static void *worker_main(void *argument)
{
    worker *w = argument;
    pool *p = w->owner;
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

/* Without waking anybody: the calling thread is thread 0. */
static void run_alone(pool *p, size_t n)
{
    frame here = {.of = p, .outer = innermost};
    innermost = &here;
    for (size_t i = 0; i < n; i++) {
        p->body(p->arg, i, 0);
        if (p->tick)
            p->tick(p->tick_arg);
    }
    innermost = here.outer;
}

static void run_together(pool *p, size_t n)
{
    size_t threads = (size_t)p->threads;
    for (size_t t = 0; t < threads; t++) {
        atomic_store_explicit(&p->ranges[t].next,
                              n / threads * t + (t < n % threads ? t : n % threads),
                              memory_order_relaxed);
        size_t after = t + 1;
        p->ranges[t].end = n / threads * after + (after < n % threads ? after : n % threads);
    }
    atomic_store(&p->busy, (uint32_t)p->threads - 1);
    atomic_fetch_add(&p->generation, 1);
    futex_wake(&p->generation, p->threads - 1);
    work(p, 0);
    for (int i = 0; i < SPINS && atomic_load(&p->busy); i++)
        relax();
    for (uint32_t left; (left = atomic_load(&p->busy)) != 0;)
        futex_wait(&p->busy, left);
}

void pool_run(pool *p, size_t n, void (*body)(void *, size_t, int32_t), void *arg)
{
    if (n == 0)
        return;
    const frame *inside = frame_of(p);
    if (inside) {
        for (size_t i = 0; i < n; i++)
            body(arg, i, inside->index);
        return;
    }
    pthread_mutex_lock(&p->turn);
    p->body = body;
    p->arg = arg;
    if (p->threads == 1 || n == 1)
        run_alone(p, n);
    else
        run_together(p, n);
    pthread_mutex_unlock(&p->turn);
}

void pool_tick_set(pool *p, void (*tick)(void *), void *arg)
{
    assert(!frame_of(p));
    pthread_mutex_lock(&p->turn);
    p->tick = tick;
    p->tick_arg = arg;
    pthread_mutex_unlock(&p->turn);
}

int32_t pool_threads(const pool *p)
{
    return p->threads;
}

/* Started threads inherit the binding of this one, which may be narrower than what they get. */
static zds_status start(pool *p, const cores *where, zds_error *error)
{
    p->ranges = aligned_alloc(64, (size_t)p->threads * sizeof *p->ranges);
    p->workers = calloc((size_t)p->threads, sizeof *p->workers);
    if (!p->ranges || !p->workers)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the thread pool");
    for (int32_t i = 1; i < p->threads; i++) {
        worker *w = &p->workers[p->started];
        *w = (worker){.owner = p, .index = i};
        int code = pthread_create(&w->thread, NULL, worker_main, w);
        if (code != 0)
            return error_set(
                error, ZDS_ERR_MEMORY,
                "thread %d of %d could not be started (error %d); ask for fewer threads", i,
                p->threads, code);
        p->started++;
        cores_bind(where, i, w->thread);
    }
    return ZDS_OK;
}

zds_status pool_create(int32_t threads, const launch *l, pool **out, zds_error *error)
{
    if (threads < 0 || threads > CORES_MOST)
        return error_set(
            error, ZDS_ERR_INVALID,
            "threads: %d is not a number of threads; give 1 to %d, or 0 for this rank's cores",
            threads, (int)CORES_MOST);
    cores where;
    pool *p = calloc(1, sizeof *p);
    if (!p || !cores_find(&where, threads, l)) {
        free(p);
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the thread pool");
    }
    pthread_mutex_init(&p->turn, NULL);
    p->threads = where.threads;
    zds_status status = start(p, &where, error);
    p->why = where.why;
    p->surprising = where.surprising;
    where.why = NULL;
    cores_release(&where);
    if (status)
        pool_destroy(p);
    else
        *out = p;
    return status;
}

void pool_tell(const pool *p, int32_t rank)
{
    if (p->why)
        log_line(p->surprising ? ZDS_LOG_INFO : ZDS_LOG_DEBUG, rank, "threads", "%s", p->why);
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
    pthread_mutex_destroy(&p->turn);
    free(p->workers);
    free(p->ranges);
    free(p->why);
    free(p);
}
