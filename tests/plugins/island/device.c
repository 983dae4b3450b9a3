/* The island's thread, which does what was put on streams or beside them: late, and of what may be
 * done any next, as a seed says. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "island.h"

pthread_mutex_t island_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t island_changed = PTHREAD_COND_INITIALIZER;

/* How often events of others are asked. */
enum { POLL_NS = 100000 };

typedef struct job {
    struct job *next;
    island_event *event; /* the job's own */
    zds_event **waits;
    size_t wait_count;
    island_event *after; /* has a reference */
    island_work work;
    void *arg;
} job;

struct island_stream {
    island_stream *next;
    island_device *device;
    job *first, *last;
    bool busy;
    zds_status status; /* of the first failure since the last sync */
    char text[ISLAND_TEXT];
};

struct island_device {
    const zds_host *host;
    pthread_t thread;
    island_stream *streams;
    island_stream loose; /* in no order */
    uint64_t random;
    int64_t delay_us, fail_after, done;
    bool stream_wait, stop;
};

/* === events === */

static zds_status tell(const island_event *e)
{
    return e->status ? e->host->fail(e->host, e->status, "%s", e->text) : ZDS_OK;
}

static zds_status event_test(zds_event *event, int32_t *done)
{
    const island_event *e = (island_event *)(void *)event;
    pthread_mutex_lock(&island_lock);
    *done = e->done;
    pthread_mutex_unlock(&island_lock);
    return *done ? tell(e) : ZDS_OK;
}

static zds_status event_wait(zds_event *event)
{
    const island_event *e = (island_event *)(void *)event;
    pthread_mutex_lock(&island_lock);
    while (!e->done)
        pthread_cond_wait(&island_changed, &island_lock);
    pthread_mutex_unlock(&island_lock);
    return tell(e);
}

static void event_release(zds_event *event)
{
    island_event *e = (island_event *)(void *)event;
    pthread_mutex_lock(&island_lock);
    while (!e->done)
        pthread_cond_wait(&island_changed, &island_lock);
    island_event_drop(e);
    pthread_mutex_unlock(&island_lock);
}

static zds_status event_stream_wait(zds_event *event, const zds_stream *stream)
{
    return island_put_after(stream, (island_event *)(void *)event);
}

static const zds_event_ops event_ops = {.struct_size = sizeof event_ops,
                                        .flags = ZDS_EVENT_ANY_THREAD,
                                        .test = event_test,
                                        .wait = event_wait,
                                        .stream_wait = event_stream_wait,
                                        .release = event_release};
static const zds_event_ops waited_ops = {.struct_size = sizeof waited_ops,
                                         .flags = ZDS_EVENT_ANY_THREAD,
                                         .test = event_test,
                                         .wait = event_wait,
                                         .release = event_release};

island_event *island_event_make(const zds_host *host, bool stream_wait)
{
    island_event *e = calloc(1, sizeof *e);
    if (e)
        *e = (island_event){
            .base = {stream_wait ? &event_ops : &waited_ops}, .host = host, .references = 1};
    return e;
}

void island_event_drop(island_event *e)
{
    if (--e->references == 0)
        free(e);
}

void island_event_end(island_event *e, zds_status status, const char *text)
{
    e->done = true;
    e->status = status;
    snprintf(e->text, sizeof e->text, "%s", status ? text : "");
    pthread_cond_broadcast(&island_changed);
}

bool island_is_done(zds_event *event, zds_status *status, bool *foreign)
{
    *status = ZDS_OK;
    if (!event)
        return true;
    if (event->ops == &event_ops || event->ops == &waited_ops) {
        const island_event *e = (island_event *)(void *)event;
        *status = e->status;
        return e->done;
    }
    int32_t done = 0;
    *foreign = true;
    *status = event->ops->test(event, &done);
    return done || *status;
}

/* === the thread === */

static uint64_t draw(island_device *d)
{
    uint64_t z = (d->random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* True if nothing is in the way of the job any more; *status: what is wrong with what was. */
static bool is_ready(const job *j, zds_status *status, bool *foreign)
{
    zds_status one;
    bool ready = true;
    *status = ZDS_OK;
    if (j->after) {
        ready = island_is_done(&j->after->base, &one, foreign);
        *status = one;
    }
    for (size_t i = 0; i < j->wait_count && ready; i++) {
        ready = island_is_done(j->waits[i], &one, foreign);
        *status = *status ? *status : one;
    }
    return ready;
}

typedef struct choice {
    island_stream *stream;
    job *job;
    zds_status status; /* what it waited for has ended so */
} choice;

/* Each of the ready ones is as likely. */
static void consider(island_device *d, choice *chosen, uint64_t *ready, island_stream *s, job *j,
                     bool *foreign)
{
    zds_status status;
    if (is_ready(j, &status, foreign) && draw(d) % ++*ready == 0)
        *chosen = (choice){s, j, status};
}

static bool choose(island_device *d, choice *chosen, bool *pending, bool *foreign)
{
    uint64_t ready = 0;
    *pending = *foreign = false;
    for (job *j = d->loose.first; j; j = j->next) {
        *pending = true;
        consider(d, chosen, &ready, &d->loose, j, foreign);
    }
    for (island_stream *s = d->streams; s; s = s->next)
        if (s->first) {
            *pending = true;
            consider(d, chosen, &ready, s, s->first, foreign);
        }
    return ready > 0;
}

static void take_out(island_stream *s, job *taken)
{
    job *before = NULL;
    for (job *j = s->first; j != taken; j = j->next)
        before = j;
    *(before ? &before->next : &s->first) = taken->next;
    if (s->last == taken)
        s->last = before;
}

static void sleep_us(uint64_t us)
{
    const struct timespec time = {.tv_sec = (time_t)(us / 1000000),
                                  .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&time, NULL);
}

/* With the lock, which is given back meanwhile. */
static void do_job(island_device *d, const choice *c)
{
    job *j = c->job;
    const bool ordered = c->stream != &d->loose;
    zds_status status = c->status;
    char text[ISLAND_TEXT];
    snprintf(text, sizeof text, "an operation on the island had to wait for one that failed");
    take_out(c->stream, j);
    c->stream->busy = true;
    if (ordered && c->stream->status) {
        status = c->stream->status;
        snprintf(text, sizeof text, "%s", c->stream->text);
    }
    if (!status && j->work && d->fail_after && ++d->done == d->fail_after) {
        status = ZDS_ERR_IO;
        snprintf(text, sizeof text, "operation %lld on the island was to fail",
                 (long long)d->fail_after);
    }
    const uint64_t late = d->delay_us ? draw(d) % (uint64_t)d->delay_us : 0;
    pthread_mutex_unlock(&island_lock);
    if (late)
        sleep_us(late);
    if (!status && j->work) {
        text[0] = '\0';
        status = j->work(j->arg, text);
    }
    free(j->arg);
    pthread_mutex_lock(&island_lock);
    c->stream->busy = false;
    if (ordered && status && !c->stream->status) {
        c->stream->status = status;
        memcpy(c->stream->text, text, sizeof text);
    }
    island_event_end(j->event, status, text);
    island_event_drop(j->event);
    if (j->after)
        island_event_drop(j->after);
    free(j->waits);
    free(j);
}

static void rest(bool pending, bool foreign)
{
    struct timespec until;
    if (!pending || !foreign) {
        pthread_cond_wait(&island_changed, &island_lock);
        return;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += POLL_NS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&island_changed, &island_lock, &until);
}

static void *live(void *arg)
{
    island_device *d = arg;
    choice chosen;
    bool pending, foreign;
    pthread_mutex_lock(&island_lock);
    for (;;) {
        if (choose(d, &chosen, &pending, &foreign))
            do_job(d, &chosen);
        else if (d->stop && !pending)
            break;
        else
            rest(pending, foreign);
    }
    pthread_mutex_unlock(&island_lock);
    return NULL;
}

/* === devices === */

island_device *island_device_make(const zds_host *host, const island_options *options)
{
    island_device *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    *d = (island_device){.host = host,
                         .random = (uint64_t)options->seed,
                         .delay_us = options->delay_us,
                         .fail_after = options->fail_after,
                         .stream_wait = options->stream_wait};
    d->loose.device = d;
    if (pthread_create(&d->thread, NULL, live, d) == 0)
        return d;
    free(d);
    return NULL;
}

void island_device_end(island_device *d)
{
    pthread_mutex_lock(&island_lock);
    d->stop = true;
    pthread_cond_broadcast(&island_changed);
    pthread_mutex_unlock(&island_lock);
    pthread_join(d->thread, NULL);
    free(d);
}

/* === work === */

static zds_status no_memory(const zds_host *host, void *arg)
{
    free(arg);
    return host->fail(host, ZDS_ERR_MEMORY, "no memory for an operation on the island");
}

/* `event`, with a reference, is what the job ends; `after` what it comes after, or NULL. */
static zds_status enqueue(island_stream *s, job made, zds_event *const *waits, size_t wait_count)
{
    const zds_host *host = s->device->host;
    job *j = malloc(sizeof *j);
    made.waits = wait_count ? malloc(wait_count * sizeof(zds_event *)) : NULL;
    if (!j || (wait_count && !made.waits)) {
        free(made.waits);
        free(j);
        return no_memory(host, made.arg);
    }
    if (wait_count)
        memcpy(made.waits, waits, wait_count * sizeof(zds_event *));
    made.wait_count = wait_count;
    *j = made;
    pthread_mutex_lock(&island_lock);
    if (j->after)
        j->after->references++;
    *(s->last ? &s->last->next : &s->first) = j;
    s->last = j;
    pthread_cond_broadcast(&island_changed);
    pthread_mutex_unlock(&island_lock);
    return ZDS_OK;
}

zds_status island_put(island_device *d, const zds_stream *stream, zds_event *const *waits,
                      size_t wait_count, island_work work, void *arg, zds_event **done)
{
    island_stream *s = stream ? stream->native : &d->loose;
    if (done)
        *done = NULL;
    for (size_t i = 0; i < wait_count; i++)
        if (waits[i] && !(waits[i]->ops->flags & ZDS_EVENT_ANY_THREAD)) {
            free(arg);
            return d->host->fail(d->host, ZDS_ERR_INVALID,
                                 "an event that one thread alone may test is of no use here");
        }
    if (!done && !stream) {
        free(arg);
        return d->host->fail(d->host, ZDS_ERR_INVALID, "without a stream somebody has to wait");
    }
    island_event *event = island_event_make(d->host, d->stream_wait);
    if (!event)
        return no_memory(d->host, arg);
    event->references += done != NULL;
    zds_status status =
        enqueue(s, (job){.event = event, .work = work, .arg = arg}, waits, wait_count);
    if (status)
        free(event);
    else if (done)
        *done = &event->base;
    return status;
}

zds_status island_put_after(const zds_stream *stream, island_event *after)
{
    island_stream *s = stream->native;
    island_event *event = island_event_make(s->device->host, s->device->stream_wait);
    if (!event)
        return no_memory(s->device->host, NULL);
    zds_status status = enqueue(s, (job){.event = event, .after = after}, NULL, 0);
    if (status)
        free(event);
    return status;
}

/* === streams === */

zds_status island_stream_make(island_device *d, zds_stream *stream)
{
    island_stream *s = calloc(1, sizeof *s);
    if (!s)
        return d->host->fail(d->host, ZDS_ERR_MEMORY, "no memory for a stream");
    s->device = d;
    pthread_mutex_lock(&island_lock);
    s->next = d->streams;
    d->streams = s;
    pthread_mutex_unlock(&island_lock);
    stream->device = (zds_device){.space = ZDS_SPACE_TEST};
    stream->native = s;
    return ZDS_OK;
}

static void drain(const island_stream *s)
{
    while (s->first || s->busy)
        pthread_cond_wait(&island_changed, &island_lock);
}

void island_stream_end(zds_stream *stream)
{
    island_stream *s = stream->native;
    pthread_mutex_lock(&island_lock);
    drain(s);
    island_stream **link = &s->device->streams;
    while (*link != s)
        link = &(*link)->next;
    *link = s->next;
    pthread_mutex_unlock(&island_lock);
    free(s);
    stream->native = NULL;
}

zds_status island_stream_sync(const zds_stream *stream)
{
    island_stream *s = stream->native;
    char text[ISLAND_TEXT];
    pthread_mutex_lock(&island_lock);
    drain(s);
    zds_status status = s->status;
    memcpy(text, s->text, sizeof text);
    s->status = ZDS_OK;
    pthread_mutex_unlock(&island_lock);
    const zds_host *host = s->device->host;
    return status ? host->fail(host, status, "%s", text) : ZDS_OK;
}

island_device *island_device_of(const zds_stream *stream)
{
    const island_stream *s = stream->native;
    return s->device;
}
