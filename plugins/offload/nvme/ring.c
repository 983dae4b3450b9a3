/* Moves bytes by io_uring: one thread has the ring, and sleeps in it while requests are in flight,
 * else beside it. An eventfd in the ring wakes it where there is more to do. */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "nvme.h"

typedef struct slot {
    request r; /* first */
    struct iovec vector;
    struct slot *next; /* of those that are free, or to be put into the ring */
} slot;

struct ring {
    struct io_uring io;
    int wake;      /* the eventfd */
    bool armed;    /* the ring looks at it */
    bool asleep;   /* whoever has more to do must wake the thread; of the tier's lock */
    slot *slots;   /* [depth] */
    slot *free;    /* of them */
    unsigned busy; /* the others */
    slot **order;  /* [depth + 1]: what the kernel has not taken yet; NULL: the eventfd */
    unsigned waiting, in_flight;
    int dead; /* errno of a ring that takes nothing any more */
    pthread_t thread;
};

/* === into the ring === */

static slot *fail_slot(slot *s, int error, slot *list)
{
    s->r.error = error;
    s->next = list;
    return s;
}

/* What the kernel did not take, where it takes nothing more, is put before `failed`. */
static slot *submit(ring *g, slot *failed)
{
    const int taken = io_uring_submit(&g->io);
    const unsigned left = io_uring_sq_ready(&g->io);
    memmove(g->order, g->order + g->waiting - left, left * sizeof *g->order);
    g->waiting = left;
    if (taken == -EINTR || taken == -EAGAIN || taken == -EBUSY)
        nap(); /* and again, when what is over was taken out */
    else if (taken < 0) {
        g->dead = -taken;
        for (unsigned i = 0; i < left; i++) {
            if (g->order[i])
                failed = fail_slot(g->order[i], g->dead, failed);
            g->in_flight--;
        }
        g->waiting = 0;
    }
    return failed;
}

static struct io_uring_sqe *entry(ring *g, slot *s)
{
    g->order[g->waiting++] = s;
    g->in_flight++;
    return io_uring_get_sqe(&g->io); /* there is one for each slot, and for the eventfd */
}

static void put(ring *g, slot *s)
{
    const request *r = &s->r;
    struct io_uring_sqe *sqe = entry(g, s);
    s->vector = (struct iovec){.iov_base = r->address + r->moved, .iov_len = r->length - r->moved};
    if (r->writing)
        io_uring_prep_writev(sqe, request_fd(r), &s->vector, 1, request_offset(r));
    else
        io_uring_prep_readv(sqe, request_fd(r), &s->vector, 1, request_offset(r));
    io_uring_sqe_set_data(sqe, s);
}

/* All of a list. Those that cannot be are returned. */
static slot *put_all(const tier *t, slot *list)
{
    ring *g = t->ring;
    slot *failed = NULL;
    while (list) {
        slot *s = list;
        list = s->next;
        if (g->dead) {
            failed = fail_slot(s, g->dead, failed);
            continue;
        }
        put(g, s);
        if (t->set.single_submit)
            failed = submit(g, failed);
    }
    if (!g->armed && !g->dead) {
        struct io_uring_sqe *sqe = entry(g, NULL);
        io_uring_prep_poll_add(sqe, g->wake, POLLIN);
        io_uring_sqe_set_data(sqe, NULL);
        g->armed = true;
    }
    return g->waiting ? submit(g, failed) : failed;
}

/* === out of it === */

/* NULL: there is none, or somebody woke the thread. */
static struct io_uring_cqe *next_end(ring *g, bool sleep)
{
    struct io_uring_cqe *cqe = NULL;
    const int error = io_uring_wait_cqe_nr(&g->io, &cqe, sleep);
    if (!error)
        return cqe;
    if (error == -EAGAIN && !sleep)
        return NULL;
    if (error != -EINTR)
        nap();
    return io_uring_peek_cqe(&g->io, &cqe) == 0 ? cqe : NULL;
}

static void drain_wake(ring *g)
{
    uint64_t count;
    const ssize_t got = read(g->wake, &count, sizeof count);
    (void)got; /* nothing, where the poll has ended for another reason */
    g->armed = false;
}

/* What is over now, by slots; what goes on, into *again. */
static slot *take_ends(const tier *t, bool sleep, slot **again)
{
    ring *g = t->ring;
    slot *ended = NULL;
    bool later = false;
    for (struct io_uring_cqe *cqe; (cqe = next_end(g, sleep)); sleep = false) {
        slot *s = io_uring_cqe_get_data(cqe);
        const int result = cqe->res;
        io_uring_cqe_seen(&g->io, cqe);
        g->in_flight--;
        if (!s) {
            drain_wake(g);
            continue;
        }
        const step next = request_moved(t, &s->r, result);
        slot **list = next == STEP_DONE ? &ended : again;
        s->next = *list;
        *list = s;
        later |= next == STEP_LATER;
    }
    if (later)
        nap();
    return ended;
}

/* === the thread === */

/* New ones, as many as may be; the lock is held. */
static slot *take_new(tier *t)
{
    ring *g = t->ring;
    slot *list = NULL, **end = &list;
    while (g->free && queue_take(t, &g->free->r)) {
        *end = g->free;
        g->free = g->free->next;
        end = &(*end)->next;
        g->busy++;
    }
    *end = NULL;
    return list;
}

static void finish_all(tier *t, slot *list)
{
    ring *g = t->ring;
    for (slot *s = list, *next; s; s = next) {
        next = s->next;
        queue_finish(t, &s->r);
        s->next = g->free;
        g->free = s;
        g->busy--;
    }
}

static void *run(void *arg)
{
    tier *t = arg;
    ring *g = t->ring;
    slot *again = NULL;
    pthread_mutex_lock(&t->lock);
    while (!t->stopping) {
        const bool idle = !g->busy, may_take = idle || t->set.overlap_events;
        slot *fresh = may_take ? take_new(t) : NULL;
        if (idle && !fresh) {
            pthread_cond_wait(&t->work, &t->lock);
            continue;
        }
        g->asleep = g->free && t->set.overlap_events;
        pthread_mutex_unlock(&t->lock);
        for (slot *s = fresh; s; s = s->next)
            request_begin(t, &s->r);
        slot **end = &again;
        while (*end)
            end = &(*end)->next;
        *end = fresh;
        slot *failed = put_all(t, again);
        again = NULL;
        slot *ended = take_ends(t, !failed && !g->waiting && g->in_flight, &again);
        pthread_mutex_lock(&t->lock);
        g->asleep = false;
        finish_all(t, failed);
        finish_all(t, ended);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

void ring_wake(tier *t)
{
    ring *g = t->ring;
    const uint64_t one = 1;
    if (g->asleep) {
        const ssize_t wrote = write(g->wake, &one, sizeof one);
        (void)wrote; /* it cannot fail: the count is small */
    }
    g->asleep = false;
    pthread_cond_signal(&t->work);
}

/* === open and close === */

static void destroy(tier *t)
{
    const zds_host *host = t->host;
    ring *g = t->ring;
    t->ring = NULL;
    if (g->wake >= 0)
        close(g->wake);
    host->free(host, g->slots);
    host->free(host, g->order);
    host->free(host, g);
}

int ring_open(tier *t)
{
    const zds_host *host = t->host;
    ring *g = host->alloc(host, sizeof *g, 0);
    if (!g)
        return ENOMEM;
    t->ring = g;
    g->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = g->wake < 0 ? errno : 0;
    g->slots = host->alloc(host, t->depth * sizeof *g->slots, 0);
    g->order = host->alloc(host, (t->depth + 1) * sizeof(slot *), 0);
    if (!g->slots || !g->order)
        error = ENOMEM;
    for (uint32_t i = 0; i < t->depth && !error; i++) {
        g->slots[i].next = g->free;
        g->free = &g->slots[i];
    }
    if (!error)
        error = -io_uring_queue_init(t->depth + 1, &g->io, 0);
    if (!error && (error = -io_uring_ring_dontfork(&g->io)) == 0 &&
        !start_thread(&g->thread, run, t))
        error = EAGAIN;
    if (error && g->io.ring_fd > 0)
        io_uring_queue_exit(&g->io);
    if (error)
        destroy(t);
    return error;
}

void ring_close(tier *t)
{
    if (!t->ring)
        return;
    pthread_join(t->ring->thread, NULL);
    io_uring_queue_exit(&t->ring->io);
    destroy(t);
}
