/* Counters: each rank adds to a word of its own, in its part of a region, and all read all. So a
 * count needs no atomic operation of several writers, and who is behind can be told by name. */
#include "comm/shm/shm.h"

enum { CHECK_MS = 20, ABSENT_MS = 500 }; /* as in health.c */

typedef struct count_event {
    zds_event event;
    comm *comm;
    const region *counters;
    uint64_t index, value;
    /* of `wait` */
    uint64_t seen;
    int64_t last_advance, last_try;
    _Atomic int64_t last_check; /* of `test`, which any thread may call */
    char what[WHAT_BYTES];
} count_event;

static _Atomic uint64_t *word_of(const region *g, int32_t r, uint64_t index)
{
    return (_Atomic uint64_t *)(void *)(g->base + (uint64_t)r * g->part) + index;
}

static uint64_t total_of(const comm *c, const region *g, uint64_t index)
{
    uint64_t sum = 0;
    for (int32_t r = 0; r < c->size; r++)
        sum += atomic_load(word_of(g, r, index));
    return sum;
}

static bool is_reached(const void *arg)
{
    const count_event *e = arg;
    return total_of(e->comm, e->counters, e->index) >= e->value;
}

/* The ranks that have counted least, but for this one, unless it waits for itself. */
static void list_behind(const count_event *e, char *text, size_t size)
{
    const comm *c = e->comm;
    bool behind[MAX_RANKS];
    uint64_t least = UINT64_MAX;
    for (int32_t r = 0; r < c->size; r++) {
        uint64_t n = atomic_load(word_of(e->counters, r, e->index));
        least = n < least && r != c->rank ? n : least;
    }
    for (int32_t r = 0; r < c->size; r++)
        behind[r] = (r != c->rank || c->size == 1) &&
                    atomic_load(word_of(e->counters, r, e->index)) <= least;
    health_list_behind(c, behind, UINT64_MAX, text, size);
}

static bool all_others_left(const comm *c)
{
    for (int32_t r = 0; r < c->size; r++)
        if (r != c->rank && !health_has_left(c, r))
            return false;
    return true;
}

static void describe_death(const count_event *e, int32_t dead, char *text, size_t size)
{
    const job *j = e->comm->job;
    snprintf(text, size, "rank %d (pid %d) died while rank %d waits for %s", (int)dead,
             (int)j->header->pid[dead], (int)j->rank, e->what);
}

/* For the thread that waits. */
static void look_after(count_event *e)
{
    comm *c = e->comm;
    char text[200];
    int64_t now = now_ms();
    uint64_t total = total_of(c, e->counters, e->index);
    if (total != e->seen || now - e->last_try > ABSENT_MS)
        e->last_advance = now;
    e->seen = total;
    e->last_try = now;
    if (health_adopt(c) || now - c->last_check < CHECK_MS)
        return;
    c->last_check = now;
    bool left = all_others_left(c); /* before the last look at what they did */
    int32_t dead = health_find_dead(c);
    if (health_adopt(c) || is_reached(e))
        return;
    if (dead >= 0) {
        describe_death(e, dead, text, sizeof text);
        comm_fail(c, ZDS_ERR_PEER, "%s", text);
    } else if (left) {
        comm_fail(c, ZDS_ERR_PEER,
                  "all other ranks closed the communicator while rank %d waits for"
                  " %s",
                  (int)c->job->rank, e->what);
    } else {
        list_behind(e, text, sizeof text);
        health_bear(c, now - e->last_advance, text, e->what);
    }
}

static zds_status count_wait(zds_event *event)
{
    count_event *e = (count_event *)(void *)event;
    comm *c = e->comm;
    atomic_store(&c->slots[c->rank].waits, 1);
    while (!is_reached(e) && !c->status) {
        progress(c);
        look_after(e);
        if (!c->status)
            rest(c, is_reached, e);
    }
    atomic_store(&c->slots[c->rank].waits, 0);
    return is_reached(e) ? ZDS_OK : comm_error(c);
}

/* From any thread: touches nothing of the communicator but what never changes or is atomic. */
static zds_status count_test(zds_event *event, int32_t *done)
{
    count_event *e = (count_event *)(void *)event;
    const comm *c = e->comm;
    job *j = c->job;
    *done = is_reached(e);
    if (*done)
        return ZDS_OK;
    int64_t now = now_ms(), last = atomic_load(&e->last_check);
    if (now - last >= CHECK_MS && atomic_compare_exchange_strong(&e->last_check, &last, now)) {
        int32_t dead = health_find_dead(c);
        if (dead >= 0 && !is_reached(e)) {
            char text[200];
            describe_death(e, dead, text, sizeof text);
            record_failure(j, ZDS_ERR_PEER, text);
        }
    }
    if (atomic_load(&j->header->record) != RECORD_SET)
        return ZDS_OK;
    int32_t status = j->header->record_status;
    return c->host->fail(c->host,
                         status > ZDS_OK && status <= ZDS_ERR_INTERNAL ? status : ZDS_ERR_PEER,
                         "%.*s", (int)sizeof j->header->record_text - 1, j->header->record_text);
}

static void count_release(zds_event *event)
{
    count_event *e = (count_event *)(void *)event;
    const zds_host *host = e->comm->host;
    if (!e->comm->status)
        (void)count_wait(event); /* a failure is kept in the communicator for the next call */
    host->free(host, e);
}

static const zds_event_ops event_ops = {.struct_size = sizeof event_ops,
                                        .flags = ZDS_EVENT_ANY_THREAD,
                                        .test = count_test,
                                        .wait = count_wait,
                                        .release = count_release};

static zds_status check(const comm *c, const zds_region *counters, uint64_t index)
{
    if (counters->kind != ZDS_MEM_COUNTERS || index >= counters->bytes / sizeof(uint64_t))
        return c->host->fail(c->host, ZDS_ERR_INVALID, "there is no counter %llu in this region",
                             (unsigned long long)index);
    if (((const region *)counters->handle)->control != c->control)
        return c->host->fail(c->host, ZDS_ERR_INVALID,
                             "the counters belong to another communicator");
    return ZDS_OK;
}

zds_status comm_counter_add(void *self, const zds_region *counters, uint64_t index)
{
    comm *c = self;
    zds_status status = c->status ? comm_error(c) : check(c, counters, index);
    if (status)
        return status;
    atomic_fetch_add(word_of(counters->handle, c->rank, index), 1);
    wake_all(c);
    return ZDS_OK;
}

zds_status comm_counter_wait(void *self, const zds_region *counters, uint64_t index, uint64_t value,
                             const char *what, zds_event **done)
{
    comm *c = self;
    *done = NULL;
    zds_status status = c->status ? comm_error(c) : check(c, counters, index);
    if (status)
        return status;
    if (total_of(c, counters->handle, index) >= value)
        return ZDS_OK;
    count_event *e = c->host->alloc(c->host, sizeof *e, 0);
    if (!e)
        return c->host->fail(c->host, ZDS_ERR_MEMORY, "no memory for an event");
    *e = (count_event){.event = {&event_ops},
                       .comm = c,
                       .counters = counters->handle,
                       .index = index,
                       .value = value,
                       .last_advance = now_ms(),
                       .last_try = now_ms()};
    snprintf(e->what, sizeof e->what, "%s", what ? what : "a counter");
    *done = &e->event;
    return ZDS_OK;
}
