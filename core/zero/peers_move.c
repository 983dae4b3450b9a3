/* Moving operations of the ranks while nobody waits for them: between bodies of the pool, and by a
 * thread. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "zero/peers.h"

enum {
    NS = 1000000000,
    TICK_NS = 20000,    /* at least, from one look to the next */
    LEAST_NS = 50000,   /* the thread's sleep, */
    MOST_NS = 10000000, /* which is a share of how long */
    SHARE = 16          /* nothing new was issued */
};

int64_t peers_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * NS + t.tv_nsec;
}

void peers_fail_late(peers *p, zds_status status)
{
    if (!status || p->late)
        return;
    p->late = status;
    p->late_text = strdup(services_error(p->services));
}

/* With the lock. */
static void move_now(peers *p)
{
    services_clear(p->services);
    peers_fail_late(p, p->ops->progress(p->self));
    p->moved_ns = peers_now_ns();
}

static bool is_moving(peers *p)
{
    return atomic_load_explicit(&p->in_flight, memory_order_relaxed) && !p->late;
}

void peers_tick(peers *p)
{
    if (!atomic_load_explicit(&p->in_flight, memory_order_relaxed))
        return;
    /* Whoever holds it is in a call that moves things, or has begun one for this very body. */
    if (pthread_mutex_trylock(&p->lock))
        return;
    if (is_moving(p) && peers_now_ns() - p->moved_ns >= TICK_NS)
        move_now(p);
    pthread_mutex_unlock(&p->lock);
}

/* What has been under way for long is looked at seldom. */
static void doze(peers *p)
{
    int64_t ns = (peers_now_ns() - p->issued_ns) / SHARE;
    struct timespec until;
    ns = ns < LEAST_NS ? LEAST_NS : ns > MOST_NS ? MOST_NS : ns;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ns;
    until.tv_sec += until.tv_nsec / NS;
    until.tv_nsec %= NS;
    pthread_cond_timedwait(&p->news, &p->lock, &until);
}

static void *live(void *arg)
{
    peers *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        if (!is_moving(p)) {
            pthread_cond_wait(&p->news, &p->lock);
            continue;
        }
        p->services->alone = true; /* the pool is busy, or its cores are the caller's */
        move_now(p);
        p->services->alone = false;
        doze(p);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

zds_status peers_move(peers *p, zds_error *error)
{
    int code = pthread_create(&p->mover, NULL, live, p);
    if (code != 0)
        return error_set(error, ZDS_ERR_MEMORY,
                         "the progress thread could not be started (error %d); set "
                         "zds.progress_thread to false",
                         code);
    p->has_mover = true;
    return ZDS_OK;
}

void peers_rest(peers *p)
{
    if (!p->has_mover)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->news);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->mover, NULL);
    p->has_mover = false;
}
