/* Issuing operations, moving them forward, and their events. An operation waits in its queue until
 * what it depends on is done; then it is posted for the peers, worked on, and complete once those
 * who read its source are through. */
#include "comm/shm/shm.h"

enum {
    SLICE_MS = 50,        /* of sleep, between looks at the peers' health */
    FOREIGN_SLICE_MS = 1, /* where another backend's event is waited for: it wakes nobody here */
    PAUSES = 64
};

static const zds_event_ops event_ops;

static bool is_message(const op *o)
{
    return o->kind == OP_SEND || o->kind == OP_RECV;
}

/* === posting === */

/* 1: all events that the operation waits for are done; 0: not yet; failures end the communicator.
 */
static bool waits_over(comm *c, op *o)
{
    while (o->coll.wait_count) {
        zds_event *e = o->coll.waits[0];
        int32_t done = 1;
        if (e && e->ops == &event_ops && ((op *)(void *)e)->comm == c) {
            done = ((op *)(void *)e)->done;
        } else if (e) {
            zds_status status = e->ops->test(e, &done);
            if (status) {
                char text[160];
                comm_fail(c, status, "an event that %s on rank %d waits for has failed",
                          op_text(o, text, sizeof text), (int)c->job->rank);
                return false;
            }
        }
        if (!done)
            return false;
        o->coll.waits++;
        o->coll.wait_count--;
    }
    return true;
}

place place_of(const comm *c, const void *pointer, uint64_t bytes, unsigned char *inside)
{
    place p = {.how = AT_NOWHERE};
    if (!bytes)
        return p;
    if (region_find(c, pointer, bytes, &p.offset)) {
        p.how = AT_ARENA;
    } else if (inside && bytes <= INLINE_BYTES) {
        p.how = AT_INLINE;
        memcpy(inside, pointer, bytes);
    } else {
        p.how = AT_PIPE;
    }
    return p;
}

static bool post_next(comm *c)
{
    op *o = c->to_post;
    if (!o || !waits_over(c, o))
        return false;
    for (int32_t r = 0; r < c->size; r++)
        if (atomic_load_explicit(&c->slots[r].done, memory_order_acquire) + RING < o->seq)
            return false;
    const zds_coll *a = &o->coll;
    bool reducing =
        o->kind == OP_ALL_REDUCE || o->kind == OP_REDUCE || o->kind == OP_REDUCE_SCATTER;
    bool rooted = o->kind == OP_REDUCE || o->kind == OP_BROADCAST;
    post *p = entry_of(c, c->rank, o->seq);
    p->seq = o->seq;
    p->tag = a->tag;
    p->count = a->count;
    p->kind = o->kind;
    p->reduction = reducing && !a->fused ? a->op : 0;
    p->peer = rooted ? a->peer : 0;
    p->fused = a->fused != NULL;
    p->src_dtype = a->src_dtype;
    p->dst_dtype = a->dst_dtype;
    snprintf(p->what, sizeof p->what, "%s", a->what ? a->what : "");
    uint64_t bytes = work_source_bytes(o, c->size);
    if (work_small(o) && bytes) { /* one phase: all ranks must see it in the ring */
        p->src = (place){.how = AT_INLINE};
        memcpy(p->data, a->src, bytes);
    } else {
        p->src = place_of(c, a->src, bytes, p->data);
    }
    p->dst = (place){.how = AT_NOWHERE};
    if (o->kind == OP_ALL_REDUCE && !work_small(o))
        p->dst = place_of(c, a->dst, bytes, NULL);
    o->posted = true;
    c->to_post = o->next;
    atomic_store_explicit(&c->slots[c->rank].posted, o->seq, memory_order_release);
    wake_all(c);
    return true;
}

/* === progress === */

static void recycle(comm *c, op *o)
{
    o->next = c->spare;
    c->spare = o;
}

static void finish(comm *c, op *o)
{
    o->done = true;
    if (o->released)
        recycle(c, o);
}

static bool complete_next(comm *c)
{
    op *o = c->ops.first;
    if (!o || !o->worked)
        return false;
    for (int32_t r = 0; r < c->size; r++) {
        if (r == c->rank || !work_is_reader(c, o, r))
            continue;
        if (atomic_load_explicit(&c->slots[r].read, memory_order_acquire) < o->seq)
            return false;
        if (!work_needs(c, o, r) && !work_agrees(c, o, r, entry_of(c, r, o->seq)))
            return true;
    }
    c->ops.first = o->next;
    if (!o->next)
        c->ops.last = NULL;
    atomic_store_explicit(&c->slots[c->rank].done, o->seq, memory_order_release);
    wake_all(c);
    finish(c, o);
    return true;
}

/* Between two ranks and in one direction messages keep their order. */
static bool is_first_of_its_kind(const comm *c, const op *o)
{
    const op *m = c->messages.first;
    while (m != o && (m->kind != o->kind || m->coll.peer != o->coll.peer))
        m = m->next;
    return m == o;
}

static bool move_messages(comm *c)
{
    bool moved = false;
    op *before = NULL, *next;
    for (op *o = c->messages.first; o && !c->status; o = next) {
        next = o->next;
        if (is_first_of_its_kind(c, o) && waits_over(c, o))
            moved |= message_step(c, o);
        if (!o->done) {
            before = o;
            continue;
        }
        if (before)
            before->next = next;
        else
            c->messages.first = next;
        if (!next)
            c->messages.last = before;
        finish(c, o);
    }
    return moved;
}

bool progress(comm *c)
{
    if (c->inside || c->status)
        return false;
    c->inside = true;
    bool moved = false, again;
    do {
        again = post_next(c);
        again |= work_step(c);
        again |= complete_next(c);
        again |= move_messages(c);
        moved |= again;
    } while (again && !c->status);
    c->inside = false;
    if (moved)
        c->last_advance = now_ms();
    return moved;
}

/* === events === */

static bool awaits_foreign(const comm *c)
{
    if (c->to_post && c->to_post->coll.wait_count)
        return true;
    for (const op *o = c->messages.first; o; o = o->next)
        if (o->coll.wait_count)
            return true;
    return false;
}

static bool is_done(const void *o)
{
    return ((const op *)o)->done;
}

void rest(comm *c, bool (*over)(const void *arg), const void *arg)
{
    slot *mine = &c->slots[c->rank];
    uint32_t seen = atomic_load(&mine->wake);
    for (int32_t i = 0; i < c->job->spins; i++) {
        for (int32_t k = 0; k < PAUSES; k++)
#if defined(__x86_64__)
            __builtin_ia32_pause();
#else
            atomic_signal_fence(memory_order_seq_cst);
#endif
        if (atomic_load(&mine->wake) != seen)
            return;
    }
    atomic_store(&mine->sleeping, 1);
    seen = atomic_load(&mine->wake);
    if (!progress(c) && !over(arg) && !c->status)
        sleep_until_woken(c, seen, awaits_foreign(c) ? FOREIGN_SLICE_MS : SLICE_MS);
    atomic_store(&mine->sleeping, 0);
}

static zds_status event_wait(zds_event *event)
{
    op *o = (op *)(void *)event;
    comm *c = o->comm;
    atomic_store_explicit(&c->slots[c->rank].waits, 1, memory_order_relaxed);
    while (!o->done && !c->status) {
        progress(c);
        if (o->done || c->status)
            break;
        health_check(c, o);
        if (!c->status)
            rest(c, is_done, o);
    }
    atomic_store_explicit(&c->slots[c->rank].waits, 0, memory_order_relaxed);
    return o->done ? ZDS_OK : comm_error(c);
}

static zds_status event_test(zds_event *event, int32_t *done)
{
    op *o = (op *)(void *)event;
    comm *c = o->comm;
    if (!o->done && !progress(c) && !c->inside)
        health_check(c, o);
    *done = o->done;
    return o->done || !c->status ? ZDS_OK : comm_error(c);
}

static void event_release(zds_event *event)
{
    op *o = (op *)(void *)event;
    comm *c = o->comm;
    if (!o->done && !c->status)
        (void)event_wait(event); /* a failure is kept in the communicator for the next call */
    o->released = true;
    if (o->done)
        recycle(c, o); /* else it stays in its queue until the communicator goes */
}

static const zds_event_ops event_ops = {.struct_size = sizeof event_ops,
                                        .test = event_test,
                                        .wait = event_wait,
                                        .release = event_release};

/* === issuing === */

static void append(queue *q, op *o)
{
    if (q->last)
        q->last->next = o;
    else
        q->first = o;
    q->last = o;
}

static zds_status check(const comm *c, int32_t kind, const zds_coll *a)
{
    const zds_host *host = c->host;
    const char *name = op_name(kind);
    bool reducing = kind == OP_ALL_REDUCE || kind == OP_REDUCE || kind == OP_REDUCE_SCATTER;
    zds_status status = coll_check(host, name, a, reducing);
    if (status)
        return status;
    bool has_peer = kind == OP_REDUCE || kind == OP_BROADCAST || kind == OP_SEND || kind == OP_RECV;
    if (has_peer && (a->peer < 0 || a->peer >= c->size))
        return host->fail(host, ZDS_ERR_INVALID, "%s: there is no rank %d among %d", name,
                          (int)a->peer, (int)c->size);
    if ((kind == OP_SEND || kind == OP_RECV) && a->peer == c->rank)
        return host->fail(host, ZDS_ERR_INVALID, "%s: rank %d cannot exchange messages with itself",
                          name, (int)a->peer);
    if (a->fused && kind != OP_REDUCE_SCATTER && kind != OP_REDUCE)
        return host->fail(host, ZDS_ERR_INVALID, "%s: only reduce_scatter and reduce can be fused",
                          name);
    if (a->count > (UINT64_MAX >> 8) / (uint64_t)c->size)
        return host->fail(host, ZDS_ERR_INVALID, "%s: %llu elements are too many", name,
                          (unsigned long long)a->count);
    return ZDS_OK;
}

zds_status issue(comm *c, int32_t kind, const zds_coll *coll, zds_event **done)
{
    *done = NULL;
    if (c->status)
        return comm_error(c);
    zds_coll a = coll_copy(coll);
    zds_status status = coll_check_size(c->host, op_name(kind), &a);
    if (!status)
        status = check(c, kind, &a);
    if (status)
        return status;
    op *o = c->spare;
    if (o)
        c->spare = o->next;
    else
        o = c->host->alloc(c->host, sizeof *o, 0);
    if (!o)
        return c->host->fail(c->host, ZDS_ERR_MEMORY, "no memory for an operation");
    *o = (op){.event = {&event_ops}, .comm = c, .coll = a, .kind = kind};
    if (a.fused) { /* its struct need not stay; what it points to does */
        o->fused = fused_copy(a.fused);
        o->fused.struct_size = sizeof o->fused;
        o->coll.fused = &o->fused;
    }
    if (is_message(o)) {
        append(&c->messages, o);
    } else {
        o->seq = ++c->issued;
        append(&c->ops, o);
        c->to_post = c->to_post ? c->to_post : o;
        c->to_work = c->to_work ? c->to_work : o;
        if (!c->inside)
            while (post_next(c))
                ;
    }
    *done = &o->event;
    return c->status ? comm_error(c) : ZDS_OK;
}

zds_status agree(comm *c, const char *what, const void *mine, uint64_t bytes, void *all)
{
    zds_coll a = {.struct_size = sizeof a,
                  .what = what,
                  .src = mine,
                  .dst = all,
                  .count = bytes,
                  .src_dtype = ZDS_U8,
                  .dst_dtype = ZDS_U8};
    zds_event *done;
    zds_status status = issue(c, OP_AGREE, &a, &done);
    if (!status) {
        status = done->ops->wait(done);
        done->ops->release(done);
    }
    return status;
}
