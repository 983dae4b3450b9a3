/* The thread of the island's backend: it alone calls the inner one, whose operations it issues when
 * what they wait for is done, and ends when a link of the delay's speed would have. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "comm.h"

enum { POLL_NS = 50000 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* === the host that the inner one sees: its errors come late === */

static job *job_of(const zds_host *host)
{
    return host->context;
}

static void host_log(const zds_host *host, int32_t level, const char *format, ...) ZDS_PRINTF(3, 4);
static zds_status host_fail(const zds_host *host, zds_status status, const char *format, ...)
    ZDS_PRINTF(3, 4);

static void host_log(const zds_host *host, int32_t level, const char *format, ...)
{
    const zds_host *real = job_of(host)->host;
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    real->log(real, level, "%s", text);
}

static zds_status host_fail(const zds_host *host, zds_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(job_of(host)->text, ISLAND_TEXT, format, args);
    va_end(args);
    return status;
}

static void *host_alloc(const zds_host *host, size_t bytes, size_t align)
{
    const zds_host *real = job_of(host)->host;
    return real->alloc(real, bytes, align);
}

static void *host_alloc_in(const zds_host *host, zds_device device, size_t bytes, size_t align)
{
    return device.space == ZDS_SPACE_HOST ? host_alloc(host, bytes, align) : NULL;
}

static void host_free(const zds_host *host, void *pointer)
{
    const zds_host *real = job_of(host)->host;
    real->free(real, pointer);
}

static void host_parallel_for(const zds_host *host, size_t n, void (*body)(void *arg, size_t i),
                              void *arg)
{
    (void)host;
    for (size_t i = 0; i < n; i++)
        body(arg, i);
}

zds_host island_inner_host(job *j)
{
    return (zds_host){.struct_size = sizeof(zds_host),
                      .abi_minor = j->host->abi_minor,
                      .threads = 1,
                      .context = j,
                      .log = host_log,
                      .fail = host_fail,
                      .alloc = host_alloc,
                      .free = host_free,
                      .parallel_for = host_parallel_for,
                      .alloc_in = host_alloc_in};
}

/* === the thread === */

/* With the lock. */
static void end_task(job *j, task *t, zds_status status)
{
    for (task **link = &j->first, *before = NULL; *link; before = *link, link = &(*link)->next)
        if (*link == t) {
            *link = t->next;
            if (j->last == t)
                j->last = before;
            break;
        }
    if (t->over) {
        *t->over = true;
        pthread_cond_broadcast(&island_changed);
        return;
    }
    if (t->event) {
        island_event_end(t->event, status, j->text);
        island_event_drop(t->event);
    }
    if (t->stream_work)
        island_event_drop(t->stream_work);
    free(t->waits);
    free(t);
}

/* With the lock: nothing of the same communicator is before it that was not issued, and what it
 * waits for is done. */
static bool may_begin(const job *j, const task *t, zds_status *status)
{
    bool foreign;
    *status = ZDS_OK;
    for (const task *other = j->first; other != t; other = other->next)
        if (t->last || (!other->issued && (t->call || other->call || other->comm == t->comm)))
            return false;
    if (t->call)
        return true;
    if (t->stream_work && !island_is_done(&t->stream_work->base, status, &foreign))
        return false;
    for (size_t i = 0; i < t->wait_count && !*status; i++)
        if (!island_is_done(t->waits[i], status, &foreign) && !*status)
            return false;
    if (*status)
        snprintf(((job *)(uintptr_t)j)->text, ISLAND_TEXT,
                 "an operation between islands had to wait for one that failed");
    return true;
}

/* The link moves one thing after the other. */
static double over_at(job *j, double bytes)
{
    const double start = now() > j->link_free_at ? now() : j->link_free_at;
    if (isnan(j->gbs))
        return 0;
    j->link_free_at = start + 1e-6 * j->us + bytes / (1e9 * j->gbs);
    return j->link_free_at;
}

/* Without the lock around what the inner one does. True if something has moved. */
static bool begin(job *j, task *t)
{
    zds_status status;
    if (t->issued || !may_begin(j, t, &status))
        return false;
    t->issued = true;
    if (status) {
        end_task(j, t, status);
        return true;
    }
    pthread_mutex_unlock(&island_lock);
    if (t->call)
        t->call(t->arg);
    else
        status = t->function(t->comm->self, &t->coll, &t->inner);
    pthread_mutex_lock(&island_lock);
    t->over_at = over_at(j, t->bytes);
    if (t->call || status)
        end_task(j, t, status);
    return true;
}

static bool finish(job *j, task *t)
{
    int32_t done = 1;
    zds_status status = ZDS_OK;
    if (!t->issued)
        return false;
    if (t->inner) {
        pthread_mutex_unlock(&island_lock);
        status = t->inner->ops->test(t->inner, &done);
        if (done || status) {
            t->inner->ops->release(t->inner);
            t->inner = NULL;
        }
        pthread_mutex_lock(&island_lock);
    }
    if (t->inner || (!status && now() < t->over_at))
        return false;
    end_task(j, t, status);
    return true;
}

static void rest(const job *j)
{
    struct timespec until;
    if (!j->first) {
        pthread_cond_wait(&island_changed, &island_lock);
        return;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += POLL_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&island_changed, &island_lock, &until);
}

void *island_comm_live(void *arg)
{
    job *j = arg;
    pthread_mutex_lock(&island_lock);
    while (j->first || !j->stop) {
        bool moved = false;
        for (task *t = j->first, *next; t && !moved; t = next) {
            next = t->next; /* tasks are only added meanwhile, behind */
            moved = begin(j, t);
        }
        for (task *t = j->first, *next; t && !moved; t = next) {
            next = t->next;
            moved = finish(j, t);
        }
        if (!moved)
            rest(j);
    }
    pthread_mutex_unlock(&island_lock);
    return NULL;
}

void island_comm_enqueue(job *j, task *t)
{
    *(j->last ? &j->last->next : &j->first) = t;
    j->last = t;
    pthread_cond_broadcast(&island_changed);
}

/* Takes no memory, so that what must not fail does not. */
void island_on_thread(job *j, bool last, void (*call)(void *arg), void *arg)
{
    bool over = false;
    task t = {.comm = &j->root, .call = call, .arg = arg, .last = last, .over = &over};
    pthread_mutex_lock(&island_lock);
    island_comm_enqueue(j, &t);
    while (!over)
        pthread_cond_wait(&island_changed, &island_lock);
    pthread_mutex_unlock(&island_lock);
}
