/* The ranks as the core reaches them. */
#include "zero/peers.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROOM = PEERS_DOUBLES * sizeof(double) };

void peers_init(peers *p)
{
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&p->news, &clock);
    pthread_condattr_destroy(&clock);
}

void peers_destroy(peers *p)
{
    if (!p->ops)
        return;
    pthread_cond_destroy(&p->news);
    pthread_mutex_destroy(&p->lock);
    free(p->late_text);
}

zds_status peers_open(peers *p, zds_error *error)
{
    return peers_alloc(p, &p->control, "control", ROOM * ((uint64_t)p->world_size + 1),
                       ZDS_MEM_SYMMETRIC, error);
}

void peers_close(peers *p)
{
    if (p->tier)
        peers_free(p, &p->control);
}

static zds_status told(const peers *p, const peer_slab *s, zds_status status, zds_error *error)
{
    return error_set(error, status, "%s %s (%llu bytes): %s",
                     status == ZDS_ERR_MEMORY ? "no memory for" : "taking memory for", s->purpose,
                     (unsigned long long)s->bytes, services_error(p->services));
}

/* In the host's memory peers read what the comm plugin gave, and the tier looks on. */
static zds_status take_region(peers *p, peer_slab *s, int32_t kind, zds_error *error)
{
    uint64_t staggered = s->bytes + (s->bytes >= LEDGER_LARGE ? LEDGER_STAGGER : 0);
    pthread_mutex_lock(&p->lock);
    services_clear(p->services);
    zds_status status = p->ops->mem_alloc(p->self, staggered, kind, &s->region);
    if (status) {
        s->region.base = NULL;
        told(p, s, status, error);
    }
    pthread_mutex_unlock(&p->lock);
    if (status)
        return status;
    s->read_only = s->region.read_only;
    return tier_adopt(p->tier, s->region.base, s->bytes, &s->slab, error);
}

/* Elsewhere the tier gives the memory, and peers are told of it. */
static zds_status register_own(peers *p, peer_slab *s, zds_error *error)
{
    bool copies = p->ops->flags & ZDS_COMM_COPIES;
    if (!p->ops->mem_register && !copies)
        return error_set(error, ZDS_ERR_UNSUPPORTED,
                         "communication plugin %s neither registers a device's memory "
                         "(mem_register) nor takes any (ZDS_COMM_COPIES)",
                         p->services->name);
    zds_status status = tier_alloc(p->tier, NULL, s->bytes, &s->slab, error);
    if (status)
        return status;
    pthread_mutex_lock(&p->lock);
    services_clear(p->services);
    status = p->ops->mem_register ? p->ops->mem_register(p->self, s->slab.block.pointer, s->bytes,
                                                         s->slab.block.device, &s->region)
                                  : ZDS_ERR_UNSUPPORTED;
    s->registered = !status;
    /* One that takes any memory copies it. */
    if (status == ZDS_ERR_UNSUPPORTED && copies)
        status = ZDS_OK;
    if (status)
        told(p, s, status, error);
    pthread_mutex_unlock(&p->lock);
    return status;
}

zds_status peers_alloc(peers *p, peer_slab *s, const char *purpose, uint64_t bytes, int32_t kind,
                       zds_error *error)
{
    bytes = bytes ? bytes : 64;
    *s = (peer_slab){
        .bytes = bytes, .purpose = purpose, .region = {.struct_size = sizeof s->region}};
    zds_status status;
    if (p->tier->planned)
        status = tier_adopt(p->tier, NULL, bytes, &s->slab, error);
    else
        status = p->tier->in_host ? take_region(p, s, kind, error) : register_own(p, s, error);
    if (status) {
        peers_free(p, s);
        return status;
    }
    s->shared = kind == ZDS_MEM_SHARED && p->world_size > 1 ? bytes : 0;
    ledger_note(p->tier->services.ledger, purpose, p->tier->name, (int64_t)bytes,
                (int64_t)s->shared);
    s->counted = true;
    return ZDS_OK;
}

static void unregister(peers *p, peer_slab *s)
{
    pthread_mutex_lock(&p->lock);
    p->ops->mem_unregister(p->self, &s->region);
    pthread_mutex_unlock(&p->lock);
}

static void give_back(peers *p, peer_slab *s)
{
    pthread_mutex_lock(&p->lock);
    p->ops->mem_free(p->self, &s->region);
    pthread_mutex_unlock(&p->lock);
}

void peers_free(peers *p, peer_slab *s)
{
    if (s->registered)
        unregister(p, s);
    tier_free(&s->slab);
    tier_free(&s->memory);
    if (s->region.base && !s->registered)
        give_back(p, s);
    if (s->counted)
        ledger_note(p->tier->services.ledger, s->purpose, p->tier->name, -(int64_t)s->bytes,
                    -(int64_t)s->shared);
    *s = (peer_slab){0};
}

static const char counting[] = "control";

static void note_counters(const peers *p, const peer_counters *c, bool there)
{
    ledger_note(p->tier->services.ledger, counting, p->tier->name,
                there ? (int64_t)c->region.bytes : -(int64_t)c->region.bytes, 0);
}

zds_status peers_counters_open(peers *p, peer_counters *c, uint64_t count, zds_error *error)
{
    zds_status status = ZDS_OK;
    c->region = (zds_region){.struct_size = sizeof c->region};
    pthread_mutex_lock(&p->lock);
    services_clear(p->services);
    if (!p->tier->planned)
        status = p->ops->mem_alloc(p->self, count * sizeof(uint64_t), ZDS_MEM_COUNTERS, &c->region);
    if (status)
        error_set(error, status, "no memory for %llu counters: %s", (unsigned long long)count,
                  services_error(p->services));
    pthread_mutex_unlock(&p->lock);
    if (status)
        return status;
    c->region.bytes = count * sizeof(uint64_t);
    c->there = true;
    note_counters(p, c, true);
    return ZDS_OK;
}

void peers_counters_close(peers *p, peer_counters *c)
{
    if (!c->there)
        return;
    note_counters(p, c, false);
    pthread_mutex_lock(&p->lock);
    if (!p->tier->planned)
        p->ops->mem_free(p->self, &c->region);
    pthread_mutex_unlock(&p->lock);
    *c = (peer_counters){0};
}

/* === operations === */

static void tell(const peers *p, const char *why)
{
    if (p && p->world_size > 1 && p->self)
        p->ops->abort(p->self, why);
}

zds_status peers_give_up(peers *p, zds_status status)
{
    const char *why = p->failure->text ? p->failure->text : "";
    if (!p->failure->broken) {
        tell(p, why);
        tell(p->other, why);
    }
    p->failure->broken = true;
    return status;
}

/* Of an operation, with what was said of it. */
static zds_status failed(peers *p, zds_status status, const char *doing, const char *why)
{
    failure_set(p->failure, status, "rank %d, %s: %s", p->rank, doing, why);
    return peers_give_up(p, status);
}

zds_status peers_enter(peers *p, const char *doing)
{
    pthread_mutex_lock(&p->lock);
    services_clear(p->services);
    if (!p->late)
        return ZDS_OK;
    zds_status status =
        failed(p, p->late, doing, p->late_text ? p->late_text : zds_status_name(p->late));
    pthread_mutex_unlock(&p->lock);
    return status;
}

zds_status peers_leave(peers *p, zds_status status, const char *doing)
{
    if (status)
        failed(p, status, doing, services_error(p->services));
    pthread_mutex_unlock(&p->lock);
    return status;
}

void peers_keep(peers *p, const zds_event *event)
{
    if (!event)
        return;
    atomic_fetch_add(&p->in_flight, 1);
    if (!p->has_mover)
        return;
    p->issued_ns = peers_now_ns();
    pthread_cond_signal(&p->news);
}

/* With the lock. */
static void release(peers *p, zds_event **event)
{
    (*event)->ops->release(*event);
    *event = NULL;
    atomic_fetch_sub(&p->in_flight, 1);
}

zds_status peers_issue(peers *p, peers_operation operation, const zds_coll *coll, const char *doing,
                       zds_event **event)
{
    *event = NULL;
    zds_status status = peers_enter(p, doing);
    if (status)
        return status;
    status = operation(p->self, coll, event);
    peers_keep(p, *event);
    return peers_leave(p, status, doing);
}

zds_status peers_wait(peers *p, zds_event **event, const char *doing)
{
    if (!*event)
        return ZDS_OK;
    zds_status status = peers_enter(p, doing);
    if (status)
        return status;
    status = (*event)->ops->wait(*event);
    release(p, event);
    return peers_leave(p, status, doing);
}

void peers_drop(peers *p, zds_event **event)
{
    if (!*event)
        return;
    pthread_mutex_lock(&p->lock);
    release(p, event);
    pthread_mutex_unlock(&p->lock);
}

zds_status peers_call(peers *p, peers_operation operation, const zds_coll *coll, const char *doing)
{
    zds_event *event;
    zds_status status = peers_issue(p, operation, coll, doing, &event);
    return status ? status : peers_wait(p, &event, doing);
}

zds_status peers_cell_open(peers *p, peer_cell *c, int32_t color, int32_t rank, int32_t size,
                           zds_error *error)
{
    *c = (peer_cell){.rank = rank, .size = size};
    if (p->tier->planned)
        return ZDS_OK;
    pthread_mutex_lock(&p->lock);
    services_clear(p->services);
    zds_status status = p->ops->split(p->self, color, p->rank, &c->self);
    if (status) {
        c->self = NULL;
        error_set(error, status, "rank %d, a communicator of %d ranks: %s", p->rank, size,
                  services_error(p->services));
    }
    pthread_mutex_unlock(&p->lock);
    return status;
}

void peers_cell_close(peers *p, peer_cell *c)
{
    if (!c->self)
        return;
    pthread_mutex_lock(&p->lock);
    p->ops->finalize(c->self);
    pthread_mutex_unlock(&p->lock);
    *c = (peer_cell){0};
}

/* With the lock, and moving what is on its way among all ranks. */
static zds_status wait_moving(peers *p, zds_event **event)
{
    const struct timespec nap = {.tv_nsec = 20000};
    int32_t done = 0;
    zds_status status = (*event)->ops->test(*event, &done);
    while (!status && !done) {
        status = p->ops->progress(p->self);
        nanosleep(&nap, NULL);
        if (!status)
            status = (*event)->ops->test(*event, &done);
    }
    release(p, event);
    return status;
}

zds_status peers_issue_in(peers *p, const peer_cell *c, peers_operation operation,
                          const zds_coll *coll, const char *doing, zds_event **event)
{
    *event = NULL;
    zds_status status = peers_enter(p, doing);
    if (status)
        return status;
    status = operation(c->self, coll, event);
    peers_keep(p, *event);
    if (!status && *event && peers_need_moving(p))
        status = wait_moving(p, event);
    return peers_leave(p, status, doing);
}

zds_status peers_count(peers *p, const peer_counters *c, uint64_t index, const char *doing)
{
    zds_status status = peers_enter(p, doing);
    return status ? status : peers_leave(p, p->ops->counter_add(p->self, &c->region, index), doing);
}

bool peers_try_count(peers *p, const peer_counters *c, uint64_t index)
{
    if (pthread_mutex_trylock(&p->lock))
        return false;
    zds_status status = p->late;
    if (!status) {
        services_clear(p->services);
        status = p->ops->counter_add(p->self, &c->region, index);
        peers_fail_late(p, status);
    }
    pthread_mutex_unlock(&p->lock);
    return !status;
}

zds_status peers_count_wait(peers *p, const peer_counters *c, uint64_t index, uint64_t value,
                            const char *doing)
{
    zds_event *event = NULL;
    zds_status status = peers_enter(p, doing);
    if (status)
        return status;
    status = p->ops->counter_wait(p->self, &c->region, index, value, doing, &event);
    peers_keep(p, event);
    status = peers_leave(p, status, doing);
    return status ? status : peers_wait(p, &event, doing);
}

zds_status peers_progress(peers *p)
{
    static const char doing[] = "moving data between ranks";
    if (!p->ops->progress)
        return ZDS_OK;
    zds_status status = peers_enter(p, doing);
    return status ? status : peers_leave(p, p->ops->progress(p->self), doing);
}

/* === all together === */

/* What is gathered for one call is not taken for another's. */
static uint64_t tag_of(const char *doing)
{
    return XXH64(doing, strlen(doing), 0) << 8 | 7;
}

zds_status peers_gather(peers *p, const void *mine, size_t bytes, const void **all,
                        const char *doing)
{
    char *from = p->control.slab.block.pointer, *to = from + ROOM;
    if (bytes > 0) /* else `mine` may be NULL */
        memcpy(from, mine, bytes);
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = tag_of(doing),
                     .what = doing,
                     .src = from,
                     .dst = to,
                     .count = bytes,
                     .src_dtype = ZDS_U8,
                     .dst_dtype = ZDS_U8};
    *all = to;
    return peers_call(p, p->ops->all_gather, &coll, doing);
}

zds_status peers_agree(peers *p, zds_status mine, const char *doing)
{
    int64_t row = mine;
    const void *all;
    zds_status status = peers_gather(p, &row, sizeof row, &all, doing);
    if (status)
        return status;
    memcpy(&row, all, sizeof row);
    return (zds_status)row;
}
