/* send and recv: one channel from each rank to each other, one message at a time in it. */
#include "comm/shm/shm.h"

static size_t pair_of(const comm *c, int32_t from, int32_t to)
{
    return (size_t)from * (size_t)c->size + (size_t)to;
}

static char *message_piece(const comm *c, size_t pair, uint64_t number)
{
    return c->message_data + (pair * PIPE_SLOTS + number % PIPE_SLOTS) * PIPE_BYTES;
}

static bool send_step(comm *c, op *o)
{
    size_t pair = pair_of(c, c->rank, o->coll.peer);
    channel *ch = &c->channels[pair];
    pipe_ends *p = &c->message_pipes[pair];
    uint64_t bytes = o->coll.count * zds_dtype_size(o->coll.src_dtype);
    uint64_t received = atomic_load_explicit(&ch->received, memory_order_acquire);
    bool moved = false;
    if (!o->posted) {
        uint64_t sent = atomic_load_explicit(&ch->sent, memory_order_relaxed);
        if (received != sent)
            return false;
        o->seq = sent + 1;
        ch->entry = (post){.seq = o->seq,
                           .tag = o->coll.tag,
                           .count = o->coll.count,
                           .kind = OP_SEND,
                           .src_dtype = o->coll.src_dtype};
        snprintf(ch->entry.what, sizeof ch->entry.what, "%s", o->coll.what ? o->coll.what : "");
        ch->entry.src = place_of(c, o->coll.src, bytes, ch->entry.data);
        atomic_store_explicit(&ch->sent, o->seq, memory_order_release);
        o->posted = moved = true;
    }
    if (ch->entry.src.how == AT_PIPE) {
        uint64_t filled = atomic_load_explicit(&p->filled, memory_order_relaxed);
        while (o->piece * PIPE_BYTES < bytes &&
               filled - atomic_load_explicit(&p->drained, memory_order_acquire) < PIPE_SLOTS) {
            uint64_t at = o->piece++ * PIPE_BYTES;
            memcpy(message_piece(c, pair, filled), (const char *)o->coll.src + at,
                   bytes - at < PIPE_BYTES ? bytes - at : PIPE_BYTES);
            atomic_store_explicit(&p->filled, ++filled, memory_order_release);
            moved = true;
        }
    }
    if (moved)
        wake_rank(c, o->coll.peer);
    o->done = received >= o->seq;
    return moved || o->done;
}

static bool matches(comm *c, const op *o, const post *p)
{
    if (p->tag == o->coll.tag && p->count == o->coll.count && p->src_dtype == o->coll.src_dtype)
        return true;
    comm_fail(c, ZDS_ERR_DIVERGED,
              "rank %d sends %.*s (tag %llu, %llu bytes); rank %d expects %.120s (tag %llu, %llu"
              " bytes)",
              (int)c->world_rank[o->coll.peer], WHAT_BYTES - 1, p->what[0] ? p->what : "a message",
              (unsigned long long)p->tag,
              (unsigned long long)(p->count * zds_dtype_size(p->src_dtype)), (int)c->job->rank,
              o->coll.what ? o->coll.what : "a message", (unsigned long long)o->coll.tag,
              (unsigned long long)(o->coll.count * zds_dtype_size(o->coll.src_dtype)));
    return false;
}

static bool receive_pieces(comm *c, op *o, size_t pair, uint64_t bytes)
{
    pipe_ends *p = &c->message_pipes[pair];
    uint64_t drained = atomic_load_explicit(&p->drained, memory_order_relaxed);
    bool moved = false;
    while (o->piece * PIPE_BYTES < bytes &&
           atomic_load_explicit(&p->filled, memory_order_acquire) != drained) {
        uint64_t at = o->piece++ * PIPE_BYTES;
        memcpy((char *)o->coll.dst + at, message_piece(c, pair, drained),
               bytes - at < PIPE_BYTES ? bytes - at : PIPE_BYTES);
        atomic_store_explicit(&p->drained, ++drained, memory_order_release);
        moved = true;
    }
    return moved;
}

static bool receive_step(comm *c, op *o)
{
    size_t pair = pair_of(c, o->coll.peer, c->rank);
    channel *ch = &c->channels[pair];
    uint64_t bytes = o->coll.count * zds_dtype_size(o->coll.src_dtype);
    uint64_t received = atomic_load_explicit(&ch->received, memory_order_relaxed);
    if (atomic_load_explicit(&ch->sent, memory_order_acquire) == received)
        return false;
    const post *entry = &ch->entry;
    if (!o->posted && !matches(c, o, entry))
        return true;
    o->posted = true;
    bool moved = false, complete = true;
    if (entry->src.how == AT_PIPE) {
        moved = receive_pieces(c, o, pair, bytes);
        complete = o->piece * PIPE_BYTES >= bytes;
    } else if (entry->src.how == AT_INLINE && bytes <= INLINE_BYTES) {
        memcpy(o->coll.dst, entry->data, bytes);
    } else if (bytes) {
        const char *source = region_at(c, entry->src.offset, bytes);
        if (!source) {
            comm_fail(c, ZDS_ERR_INTERNAL, "rank %d sends from memory that rank %d has freed",
                      (int)c->world_rank[o->coll.peer], (int)c->job->rank);
            return true;
        }
        reduce_copy(c->host, o->coll.dst, source, bytes);
    }
    if (complete && health_adopt(c)) /* before the sender took its memory back */
        return true;
    if (complete) {
        atomic_store_explicit(&ch->received, received + 1, memory_order_release);
        o->done = true;
    }
    if (moved || complete)
        wake_rank(c, o->coll.peer);
    return moved || complete;
}

bool message_step(comm *c, op *o)
{
    return o->kind == OP_SEND ? send_step(c, o) : receive_step(c, o);
}
