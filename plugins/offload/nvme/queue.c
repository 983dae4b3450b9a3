/* Copies: what they wait for, their way into requests, their end and its event. Copies are begun in
 * the order of the calls once their waits are done, and end in any: what overlaps in a file is
 * ordered by waits alone. A thread, the keeper, asks the events of others, and tells of what takes
 * long. */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "nvme.h"

enum {
    SLOW_MS = 60000,
    LEAST_ASK_US = 50, /* between two questions to an event of others */
    MOST_ASK_US = 2000,
    NAP_US = 1000,
    BOUNCE_MOST = 4 << 20,  /* bytes of one */
    BOUNCES_MOST = 32 << 20 /* of all */
};

static void sleep_us(int64_t us)
{
    nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL);
}

void nap(void)
{
    sleep_us(NAP_US);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool start_thread(pthread_t *thread, void *(*body)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const bool started = pthread_create(thread, NULL, body, arg) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

/* === events === */

static bool is_child(const tier *t)
{
    return getpid() != t->process;
}

static zds_status tell(const op *o)
{
    const tier *t = o->tier;
    const zds_host *host = t->host;
    char shown[SHOWN_MOST];
    if (!o->status)
        return ZDS_OK;
    if (!o->error && !o->ended)
        return host->fail(host, o->status,
                          "rank %d: a copy was not made: what it had to wait for has failed",
                          t->rank);
    folder_show(t, o->number, shown);
    return host->fail(
        host, o->status, "rank %d: a %s of %llu bytes at %llu of %s %s%s; %s", t->rank,
        o->wrote ? "write" : "read", (unsigned long long)o->length, (unsigned long long)o->offset,
        shown,
        o->ended ? "meets the end of the file" : "has failed: ", o->ended ? "" : strerror(o->error),
        o->ended ? "something has cut it short, keep others out of that folder"
                 : folder_advice(o->error));
}

static zds_status tell_child(const op *o)
{
    return o->tier->host->fail(o->tier->host, ZDS_ERR_INVALID,
                               "process %d was forked while process %d made a copy: wait there",
                               (int)getpid(), (int)o->tier->process);
}

static zds_status event_test(zds_event *event, int32_t *done)
{
    op *o = (op *)(void *)event;
    *done = 1;
    if (is_child(o->tier))
        return tell_child(o);
    pthread_mutex_lock(&o->tier->lock);
    *done = o->done;
    pthread_mutex_unlock(&o->tier->lock);
    return *done ? tell(o) : ZDS_OK;
}

static void await(op *o)
{
    pthread_mutex_lock(&o->tier->lock);
    while (!o->done)
        pthread_cond_wait(&o->tier->done, &o->tier->lock);
    pthread_mutex_unlock(&o->tier->lock);
}

static zds_status event_wait(zds_event *event)
{
    op *o = (op *)(void *)event;
    if (is_child(o->tier))
        return tell_child(o);
    await(o);
    return tell(o);
}

static void event_release(zds_event *event)
{
    op *o = (op *)(void *)event;
    if (is_child(o->tier))
        return;
    await(o);
    o->tier->host->free(o->tier->host, o);
}

static const zds_event_ops event_ops = {.struct_size = sizeof event_ops,
                                        .flags = ZDS_EVENT_ANY_THREAD,
                                        .test = event_test,
                                        .wait = event_wait,
                                        .release = event_release};

/* === from wait to wait; the lock is held === */

static void list_add(op_list *list, op *o)
{
    o->next = NULL;
    if (list->last)
        list->last->next = o;
    else
        list->first = o;
    list->last = o;
}

static void list_drop_first(op_list *list)
{
    list->first = list->first->next;
    if (!list->first)
        list->last = NULL;
}

static void wake_movers(tier *t)
{
    if (t->ring)
        ring_wake(t);
    else
        pthread_cond_broadcast(&t->work);
}

static void live_add(tier *t, op *o)
{
    o->before = t->newest;
    if (t->newest)
        t->newest->after = o;
    else
        t->oldest = o;
    t->newest = o;
    t->live++;
}

static void live_drop(tier *t, op *o)
{
    *(o->before ? &o->before->after : &t->oldest) = o->after;
    *(o->after ? &o->after->before : &t->newest) = o->before;
    t->live--;
}

/* As the one that it waited for. */
static void fail_as(op *o, const op *other)
{
    o->status = other->status;
    o->error = other->error;
    o->ended = other->ended;
    o->wrote = other->wrote;
    o->number = other->number;
    o->offset = other->offset;
    o->length = other->length;
}

/* To the next event that is not done, or to those that are to be moved. True if it is over: without
 * bytes, or because what it waits for has failed. */
static bool go_on(tier *t, op *o)
{
    for (; o->wait < o->wait_count; o->wait++) {
        zds_event *event = o->waits[o->wait];
        op *other = event && event->ops == &event_ops ? (op *)(void *)event : NULL;
        if (!event)
            continue;
        if (!other || other->tier != t) {
            o->next = t->asked;
            t->asked = o;
            pthread_cond_signal(&t->asks);
            return false;
        }
        if (!other->done) {
            o->next = other->dependents;
            other->dependents = o;
            return false;
        }
        if (other->status) {
            fail_as(o, other);
            return true;
        }
    }
    if (o->bytes) {
        list_add(&t->ready, o);
        wake_movers(t);
    }
    return !o->bytes;
}

/* All of a list; and, of each that is over, those that wait for it. */
static void go_on_all(tier *t, op *list)
{
    while (list) {
        op *o = list;
        list = o->next;
        if (!o->status && !go_on(t, o))
            continue;
        live_drop(t, o);
        for (op *d = o->dependents, *next; d; d = next) {
            next = d->next;
            d->next = list;
            list = d;
        }
        o->done = true;
        pthread_cond_broadcast(&t->done);
    }
}

static void over(tier *t, op *o)
{
    op *waiting = o->dependents;
    live_drop(t, o);
    o->done = true;
    pthread_cond_broadcast(&t->done);
    go_on_all(t, waiting);
}

/* === copies === */

static bool needs_bounce(const tier *t, const op *o, uint64_t bytes)
{
    if (o->from && o->to)
        return true;
    return t->traits.direct &&
           ((uintptr_t)o->memory % t->traits.memory_alignment || bytes % t->traits.alignment);
}

static zds_status make_bounces(tier *t)
{
    const zds_host *host = t->host;
    uint64_t bytes = round_up(BOUNCE_MOST, t->traits.alignment);
    if (bytes > t->request_bytes)
        bytes = t->request_bytes;
    const uint64_t most = bytes < BOUNCES_MOST ? BOUNCES_MOST / bytes : 1;
    const uint64_t count = most < t->depth ? most : t->depth;
    const size_t align = t->traits.alignment < 4096 ? 4096 : t->traits.alignment;
    char *bounces = host->alloc(host, count * bytes, align);
    int32_t *stack = host->alloc(host, count * sizeof *stack, 0);
    if (!bounces || !stack) {
        host->free(host, bounces);
        host->free(host, stack);
        return host->fail(host, ZDS_ERR_MEMORY,
                          "rank %d: no memory for copies between files and memory that is not "
                          "aligned: %llu bytes",
                          t->rank, (unsigned long long)(count * bytes));
    }
    for (uint64_t i = 0; i < count; i++)
        stack[i] = (int32_t)i;
    pthread_mutex_lock(&t->lock);
    t->bounces = bounces;
    t->bounce_bytes = bytes;
    t->bounce_stack = stack;
    t->bounce_free = (int32_t)count;
    pthread_mutex_unlock(&t->lock);
    return ZDS_OK;
}

zds_status queue_copy(tier *t, const zds_copy *copy, zds_event **done)
{
    const zds_host *host = t->host;
    const zds_end *from = &copy->from, *to = &copy->to;
    op *o = host->alloc(host, sizeof *o + copy->wait_count * sizeof *o->waits, 0);
    if (!o)
        return host->fail(host, ZDS_ERR_MEMORY, "rank %d: no memory for a copy", t->rank);
    *o = (op){.base = {&event_ops},
              .tier = t,
              .from = from->block ? from->block->handle : NULL,
              .to = to->block ? to->block->handle : NULL,
              .from_offset = from->offset,
              .to_offset = to->offset,
              .bytes = copy->bytes,
              .started_ms = now_ms(),
              .wait_count = copy->wait_count};
    o->memory = zds_end_address(from->block ? to : from);
    for (size_t i = 0; i < copy->wait_count; i++)
        o->waits[i] = copy->waits[i];
    zds_status status = !t->bounces && needs_bounce(t, o, copy->bytes) ? make_bounces(t) : ZDS_OK;
    if (status) {
        host->free(host, o);
        return status;
    }
    pthread_mutex_lock(&t->lock);
    live_add(t, o);
    go_on_all(t, o);
    pthread_mutex_unlock(&t->lock);
    *done = &o->base;
    return ZDS_OK;
}

/* === requests; the lock is held === */

/* What O_DIRECT cannot take as it is goes by a bounce buffer: memory that is not aligned, and what
 * is less than an alignment at the end of a block. */
bool queue_take(tier *t, request *r)
{
    op *o = t->ready.first;
    if (!o)
        return false;
    const uint64_t left = o->bytes - o->issued, unit = t->traits.alignment;
    uint64_t n = left < t->request_bytes ? left : t->request_bytes;
    if (!needs_bounce(t, o, 0) && t->traits.direct && n > unit)
        n -= n % unit;
    const bool bounced = needs_bounce(t, o, n);
    if (bounced && !t->bounce_free)
        return false;
    if (bounced && n > t->bounce_bytes)
        n = t->bounce_bytes;
    *r = (request){.op = o,
                   .first = o->issued,
                   .bytes = n,
                   .length = t->traits.direct ? round_up(n, unit) : n,
                   .bounce = bounced ? t->bounce_stack[--t->bounce_free] : -1};
    o->issued += n;
    o->in_flight++;
    if (o->issued == o->bytes)
        list_drop_first(&t->ready);
    return true;
}

static void note_failure(tier *t, op *o, const request *r)
{
    const file *f = r->writing ? o->to : o->from;
    if (o->status)
        return;
    o->status = ZDS_ERR_IO;
    o->error = r->error;
    o->ended = r->ended;
    o->wrote = r->writing;
    o->number = f->number;
    o->offset = request_offset(r);
    o->length = r->length - r->moved;
    if (t->ready.first == o) /* the rest of it */
        list_drop_first(&t->ready);
    o->issued = o->bytes;
}

void queue_finish(tier *t, const request *r)
{
    op *o = r->op;
    o->in_flight--;
    if (r->bounce >= 0) {
        t->bounce_stack[t->bounce_free++] = r->bounce;
        if (t->ready.first)
            wake_movers(t);
    }
    if (r->error || r->ended)
        note_failure(t, o, r);
    else
        o->moved += r->bytes;
    if (!o->in_flight && o->issued == o->bytes)
        over(t, o);
}

/* === the keeper === */

/* Asks the events of others, without the lock: until they are done nobody else has these copies.
 * True if one was done. */
static bool ask(tier *t)
{
    op *list = t->asked, *finished = NULL;
    t->asked = NULL;
    pthread_mutex_unlock(&t->lock);
    op *still = NULL;
    for (op *o = list, *next; o; o = next) {
        zds_event *event = o->waits[o->wait];
        int32_t done = 0;
        next = o->next;
        o->asked = event->ops->test(event, &done);
        op **where = done || o->asked ? &finished : &still;
        o->next = *where;
        *where = o;
    }
    pthread_mutex_lock(&t->lock);
    for (op *o = finished; o; o = o->next) {
        o->status = o->asked;
        o->wait++;
    }
    for (op *o = still, *next; o; o = next) {
        next = o->next;
        o->next = t->asked;
        t->asked = o;
    }
    go_on_all(t, finished);
    return finished != NULL;
}

/* The oldest copy, for all that wait behind it. */
static void tell_slow(tier *t, int64_t now)
{
    const op *o = t->oldest;
    const file *f = o->to ? o->to : o->from;
    const uint64_t number = f ? f->number : 0, bytes = o->bytes, moved = o->moved;
    const uint64_t offset = o->to ? o->to_offset : o->from_offset;
    const long long seconds = (now - o->started_ms) / 1000;
    const bool waits = o->wait < o->wait_count, wrote = o->to != NULL;
    const size_t others = t->live - 1;
    char shown[SHOWN_MOST];
    folder_show(t, number, shown);
    pthread_mutex_unlock(&t->lock);
    t->host->log(t->host, ZDS_LOG_WARNING,
                 "a %s of %llu bytes at %llu of %s has taken %lld s%s; %llu of its bytes are "
                 "through, and %zu more copies wait",
                 wrote ? "write" : "read", (unsigned long long)bytes, (unsigned long long)offset,
                 shown, seconds, waits ? ", and still waits for what comes before it" : "",
                 (unsigned long long)moved, others);
    pthread_mutex_lock(&t->lock);
}

static void sleep_till(tier *t, int64_t ms)
{
    const struct timespec till = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    pthread_cond_timedwait(&t->asks, &t->lock, &till);
}

/* When there is nothing to ask it looks once a minute, so that nobody need wake it for a copy. */
static void *keep(void *arg)
{
    tier *t = arg;
    int64_t told_ms = 0, pause_us = LEAST_ASK_US;
    pthread_mutex_lock(&t->lock);
    while (!t->stopping) {
        const int64_t now = now_ms();
        int64_t since = t->oldest ? t->oldest->started_ms : now;
        since = since < told_ms ? told_ms : since;
        if (now - since >= SLOW_MS) {
            told_ms = now;
            tell_slow(t, now);
        } else if (t->asked) {
            pause_us = ask(t) ? LEAST_ASK_US : 2 * pause_us;
            pause_us = pause_us < MOST_ASK_US ? pause_us : MOST_ASK_US;
            pthread_mutex_unlock(&t->lock);
            sleep_us(pause_us);
            pthread_mutex_lock(&t->lock);
        } else {
            pause_us = LEAST_ASK_US;
            sleep_till(t, since + SLOW_MS);
        }
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

zds_status queue_open(tier *t)
{
    t->kept = start_thread(&t->keeper, keep, t);
    if (!t->kept)
        return t->host->fail(t->host, ZDS_ERR_MEMORY, "the system gave no thread for files");
    const int error = ring_open(t);
    if (!error)
        return ZDS_OK;
    t->host->log(t->host, ZDS_LOG_WARNING,
                 "io_uring cannot be had (%s): files are read and written by threads "
                 "(intra_op_parallelism: %lld)",
                 strerror(error), (long long)t->set.intra_op_parallelism);
    return threads_open(t);
}

void queue_close(tier *t)
{
    pthread_mutex_lock(&t->lock);
    t->stopping = true;
    pthread_cond_broadcast(&t->work);
    pthread_cond_broadcast(&t->asks);
    pthread_mutex_unlock(&t->lock);
    ring_close(t);
    threads_close(t);
    if (t->kept)
        pthread_join(t->keeper, NULL);
}
