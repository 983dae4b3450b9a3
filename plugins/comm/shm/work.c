/* The data movement of collectives. Each is one or two phases; in a phase a rank pushes what it
 * must into pipes, and takes from each peer as soon as that peer is ready. */
#include "comm/shm/shm.h"

enum { ALIGN = 64 };                    /* elements: parts of all_reduce start at cache lines */
static const uint64_t ALL = UINT64_MAX; /* in c->got: nothing more to take from this rank */

const char *op_name(int32_t kind)
{
    static const char *const names[] = {"nothing",        "barrier",    "all_reduce",  "reduce",
                                        "reduce_scatter", "all_gather", "broadcast",   "all_to_all",
                                        "send",           "recv",       "the exchange"};
    return kind >= 0 && kind <= OP_AGREE ? names[kind] : "an unknown operation";
}

static const char *text_of(int32_t kind, const char *what, char *text, size_t size)
{
    bool says = what && what[0];
    snprintf(text, size, "%s%s%.120s%s", op_name(kind), says ? " (" : "", says ? what : "",
             says ? ")" : "");
    return text;
}

const char *op_text(const op *o, char *text, size_t size)
{
    return text_of(o->kind, o->coll.what, text, size);
}

static uint64_t element_size(const op *o)
{
    return zds_dtype_size(o->coll.src_dtype);
}

bool work_small(const op *o)
{
    return o->kind == OP_ALL_REDUCE && o->coll.count * element_size(o) <= INLINE_BYTES;
}

static bool reduces(const op *o, int32_t phase)
{
    return phase == 0 &&
           (o->kind == OP_ALL_REDUCE || o->kind == OP_REDUCE || o->kind == OP_REDUCE_SCATTER);
}

bool work_needs(const comm *c, const op *o, int32_t r)
{
    if (o->kind == OP_BROADCAST)
        return r == o->coll.peer;
    return o->kind != OP_REDUCE || c->rank == o->coll.peer;
}

bool work_is_reader(const comm *c, const op *o, int32_t r)
{
    if (o->kind == OP_BROADCAST)
        return c->rank == o->coll.peer;
    return o->kind != OP_REDUCE || r == o->coll.peer;
}

uint64_t work_source_bytes(const op *o, int32_t size)
{
    uint64_t bytes = o->coll.count * element_size(o);
    switch (o->kind) {
    case OP_BARRIER:
        return 0;
    case OP_REDUCE_SCATTER:
    case OP_ALL_TO_ALL:
        return bytes * (uint64_t)size;
    case OP_BROADCAST:
        return o->comm->rank == o->coll.peer ? bytes : 0;
    case OP_REDUCE:
        return o->comm->rank == o->coll.peer ? 0 : bytes;
    default:
        return bytes;
    }
}

/* Part r of an all_reduce in elements. */
static uint64_t part_first(const comm *c, const op *o, int32_t r)
{
    uint64_t n = (uint64_t)c->size, per = (o->coll.count + n - 1) / n;
    per = (per + ALIGN - 1) / ALIGN * ALIGN;
    return (uint64_t)r * per < o->coll.count ? (uint64_t)r * per : o->coll.count;
}

static uint64_t part_count(const comm *c, const op *o, int32_t r)
{
    return part_first(c, o, r + 1) - part_first(c, o, r);
}

/* What this rank gives rank r in a phase: bytes [*from, *from + result) of its source (of its dst
 * in the second phase). */
static uint64_t gives(const comm *c, const op *o, int32_t phase, int32_t r, uint64_t *from)
{
    uint64_t size = element_size(o), bytes = o->coll.count * size;
    *from = 0;
    switch (o->kind) {
    case OP_REDUCE_SCATTER:
    case OP_ALL_TO_ALL:
        *from = (uint64_t)r * bytes;
        return bytes;
    case OP_ALL_REDUCE:
        if (work_small(o))
            return bytes;
        *from = part_first(c, o, phase ? c->rank : r) * size;
        return part_count(c, o, phase ? c->rank : r) * size;
    case OP_BARRIER:
        return 0;
    default:
        return work_is_reader(c, o, r) ? bytes : 0;
    }
}

/* What this rank takes from rank r: bytes [*from, ..) of r's source (or dst), to *to. */
static uint64_t takes(const comm *c, const op *o, int32_t phase, int32_t r, uint64_t *from,
                      char **to)
{
    uint64_t size = element_size(o), bytes = o->coll.count * size;
    *from = 0;
    *to = o->coll.dst;
    switch (o->kind) {
    case OP_REDUCE_SCATTER:
        *from = (uint64_t)c->rank * bytes;
        return bytes;
    case OP_ALL_TO_ALL:
        *from = (uint64_t)c->rank * bytes;
        *to += (uint64_t)r * bytes;
        return bytes;
    case OP_ALL_GATHER:
    case OP_AGREE:
        *to += (uint64_t)r * bytes;
        return bytes;
    case OP_ALL_REDUCE:
        if (work_small(o))
            return bytes;
        *from = part_first(c, o, phase ? r : c->rank) * size;
        *to += *from;
        return part_count(c, o, phase ? r : c->rank) * size;
    case OP_BARRIER:
        return 0;
    default:
        return work_needs(c, o, r) ? bytes : 0;
    }
}

/* === agreement === */

static const char *dtype_word(zds_dtype dtype)
{
    static const char *const words[ZDS_DTYPE_COUNT] = {"F32", "F16", "BF16", "F64",
                                                       "I8",  "U8",  "I32",  "I64"};
    return dtype >= 0 && dtype < ZDS_DTYPE_COUNT ? words[dtype] : "an unknown type";
}

static const char *reduction_word(int32_t kind)
{
    return kind == ZDS_SUM ? "sum" : kind == ZDS_AVG ? "mean" : "maximum";
}

/* One rank's operation in words, with what sets it apart from the other's where the names are the
 * same. */
static void describe(const comm *c, int32_t r, const post *p, const post *other, char *text,
                     size_t size)
{
    char name[160], what[WHAT_BYTES];
    snprintf(what, sizeof what, "%.*s", WHAT_BYTES - 1, p->what);
    size_t used = (size_t)snprintf(text, size, "rank %d %s", (int)c->world_rank[r],
                                   text_of(p->kind, what, name, sizeof name));
    if (p->kind != other->kind || used >= size)
        return;
    if (p->count != other->count || p->src_dtype != other->src_dtype)
        snprintf(text + used, size - used, ", %llu elements of %s", (unsigned long long)p->count,
                 dtype_word(p->src_dtype));
    else if (p->dst_dtype != other->dst_dtype)
        snprintf(text + used, size - used, ", into %s", dtype_word(p->dst_dtype));
    else if (p->peer != other->peer)
        snprintf(text + used, size - used, ", root %d", (int)p->peer);
    else if (p->fused != other->fused || p->reduction != other->reduction)
        snprintf(text + used, size - used, ", %s",
                 p->fused ? "fused" : reduction_word(p->reduction));
    else if (strncmp(p->what, other->what, WHAT_BYTES) == 0)
        snprintf(text + used, size - used, ", tag %llu", (unsigned long long)p->tag);
}

bool work_agrees(comm *c, const op *o, int32_t r, const post *theirs)
{
    const post *mine = entry_of(c, c->rank, o->seq);
    if (theirs->kind == mine->kind && theirs->tag == mine->tag && theirs->count == mine->count &&
        theirs->reduction == mine->reduction && theirs->peer == mine->peer &&
        theirs->fused == mine->fused && theirs->src_dtype == mine->src_dtype &&
        theirs->dst_dtype == mine->dst_dtype)
        return true;
    char here[160], there[160];
    describe(c, c->rank, mine, theirs, here, sizeof here);
    describe(c, r, theirs, mine, there, sizeof there);
    comm_fail(c, ZDS_ERR_DIVERGED,
              "ranks do different things: %s; %s; all must do the same in the same order", here,
              there);
    return false;
}

/* True once rank r has issued the operation and, in the second phase, finished its first. */
static bool ready(comm *c, const op *o, int32_t r)
{
    slot *s = &c->slots[r];
    if (atomic_load_explicit(&s->posted, memory_order_acquire) < o->seq)
        return false;
    if (c->phase == 0)
        return work_agrees(c, o, r, entry_of(c, r, o->seq));
    return atomic_load_explicit(&s->half, memory_order_acquire) >= o->seq;
}

/* === pipes === */

static pipe_ends *pipe_of(const comm *c, int32_t from, int32_t to)
{
    return &c->pipes[(size_t)from * (size_t)c->size + (size_t)to];
}

static char *piece_at(const comm *c, int32_t from, int32_t to, uint64_t number)
{
    size_t pair = (size_t)from * (size_t)c->size + (size_t)to;
    return c->pipe_data + (pair * PIPE_SLOTS + number % PIPE_SLOTS) * PIPE_BYTES;
}

static const place *place_in(const post *p, int32_t phase)
{
    return phase ? &p->dst : &p->src;
}

/* Pushes pieces to rank r while its pipe has room. */
static bool feed(comm *c, const op *o, int32_t r)
{
    uint64_t from, bytes = gives(c, o, c->phase, r, &from);
    const char *source = c->phase ? o->coll.dst : o->coll.src;
    pipe_ends *p = pipe_of(c, c->rank, r);
    uint64_t filled = atomic_load_explicit(&p->filled, memory_order_relaxed);
    bool moved = false;
    while (c->fed[r] * PIPE_BYTES < bytes &&
           filled - atomic_load_explicit(&p->drained, memory_order_acquire) < PIPE_SLOTS) {
        uint64_t at = c->fed[r] * PIPE_BYTES;
        uint64_t n = bytes - at < PIPE_BYTES ? bytes - at : PIPE_BYTES;
        memcpy(piece_at(c, c->rank, r, filled), source + from + at, n);
        atomic_store_explicit(&p->filled, ++filled, memory_order_release);
        c->fed[r]++;
        moved = true;
    }
    if (moved)
        wake_rank(c, r);
    return moved;
}

static bool fed_all(const comm *c, const op *o)
{
    const place *mine = place_in(entry_of(c, c->rank, o->seq), c->phase);
    for (int32_t r = 0; r < c->size; r++) {
        uint64_t from;
        if (r != c->rank && mine->how == AT_PIPE &&
            c->fed[r] * PIPE_BYTES < gives(c, o, c->phase, r, &from))
            return false;
    }
    return true;
}

static const char *next_piece(const comm *c, int32_t r)
{
    pipe_ends *p = pipe_of(c, r, c->rank);
    uint64_t drained = atomic_load_explicit(&p->drained, memory_order_relaxed);
    if (atomic_load_explicit(&p->filled, memory_order_acquire) == drained)
        return NULL;
    return piece_at(c, r, c->rank, drained);
}

static void drop_piece(comm *c, int32_t r)
{
    pipe_ends *p = pipe_of(c, r, c->rank);
    uint64_t drained = atomic_load_explicit(&p->drained, memory_order_relaxed);
    atomic_store_explicit(&p->drained, drained + 1, memory_order_release);
    wake_rank(c, r);
}

/* === taking === */

/* Where rank r's bytes can be read as a whole; NULL if they come through a pipe, or (with
 * comm_fail) if they are nowhere. */
static const char *direct(comm *c, const op *o, int32_t r, uint64_t from, uint64_t bytes)
{
    if (r == c->rank)
        return (const char *)(c->phase ? o->coll.dst : o->coll.src) + from;
    const post *p = entry_of(c, r, o->seq);
    const place *at = place_in(p, c->phase);
    if (at->how == AT_INLINE && from <= INLINE_BYTES && bytes <= INLINE_BYTES - from)
        return (const char *)p->data + from;
    if (at->how == AT_PIPE)
        return NULL;
    const char *found = at->how == AT_ARENA ? region_at(c, at->offset + from, bytes) : NULL;
    if (!found)
        comm_fail(c, ZDS_ERR_INTERNAL,
                  "rank %d's source of %s lies in memory that rank %d has freed",
                  (int)c->world_rank[r], op_name(o->kind), (int)c->job->rank);
    return found;
}

/* True if both are the same page of a SHARED region, under whatever address. */
static bool same_bytes(const comm *c, const char *dst, const char *src, uint64_t bytes)
{
    uint64_t to, from;
    return dst == src ||
           (region_find(c, dst, bytes, &to) && region_find(c, src, bytes, &from) && to == from);
}

static bool is_peers_page(const comm *c, const op *o, int32_t r, uint64_t from, const char *dst,
                          uint64_t bytes)
{
    const place *at = place_in(entry_of(c, r, o->seq), c->phase);
    uint64_t to;
    return at->how == AT_ARENA && region_find(c, dst, bytes, &to) && to == at->offset + from;
}

static bool copy_pieces(comm *c, int32_t r, char *to, uint64_t bytes)
{
    bool moved = false;
    const char *piece;
    while (c->got[r] * PIPE_BYTES < bytes && (piece = next_piece(c, r))) {
        uint64_t at = c->got[r] * PIPE_BYTES;
        memcpy(to + at, piece, bytes - at < PIPE_BYTES ? bytes - at : PIPE_BYTES);
        drop_piece(c, r);
        c->got[r]++;
        moved = true;
    }
    if (c->got[r] * PIPE_BYTES >= bytes)
        c->got[r] = ALL;
    return moved;
}

static bool take_copy(comm *c, const op *o, int32_t r)
{
    if (!work_needs(c, o, r)) {
        c->got[r] = ALL;
        return true;
    }
    if (r != c->rank && !ready(c, o, r))
        return false;
    uint64_t from;
    char *to;
    uint64_t bytes = takes(c, o, c->phase, r, &from, &to);
    /* In the second phase of all_reduce the own part is there already; a root may have no dst. */
    if (!bytes || !to || (r == c->rank && c->phase)) {
        c->got[r] = ALL;
        return true;
    }
    if (r != c->rank && is_peers_page(c, o, r, from, to, bytes)) {
        c->got[r] = ALL;
        return true;
    }
    const char *source = direct(c, o, r, from, bytes);
    if (c->status)
        return true;
    if (!source)
        return copy_pieces(c, r, to, bytes);
    if (r != c->rank || !same_bytes(c, to, source, bytes))
        reduce_copy(c->host, to, source, bytes);
    c->got[r] = ALL;
    return true;
}

/* Reduces elements [first, first + n) of what this rank must reduce, from c->sources. */
static void reduce_range(comm *c, const op *o, char *dst, uint64_t first, uint64_t n, bool whole)
{
    if (!o->coll.fused) {
        reduce_plain(c->host, c->sources, c->size, o->coll.src_dtype, o->coll.op,
                     dst + first * element_size(o), n);
        return;
    }
    reduce_task task = coll_fused_task(&o->coll, c->sources, c->size);
    task.dst = dst + first * zds_dtype_size(o->coll.dst_dtype);
    task.count = n;
    task.statistics = task.statistics && whole;
    reduce_fused(c->host, &task);
}

static bool find_sources(comm *c, const op *o, uint64_t *bytes, char **to, bool *piped)
{
    *piped = false;
    *bytes = 0;
    for (int32_t r = 0; r < c->size && !c->status; r++) {
        uint64_t from;
        *bytes = takes(c, o, c->phase, r, &from, to);
        c->sources[r] = *bytes ? direct(c, o, r, from, *bytes) : NULL;
        *piped = *piped || !c->sources[r];
    }
    return !c->status;
}

/* All ranks' parts at once, in rank order; through pipes piece by piece. */
static bool take_reduced(comm *c, const op *o)
{
    if (c->got[c->rank] == ALL)
        return false;
    if (!work_needs(c, o, c->rank)) { /* of reduce, not its root */
        c->got[c->rank] = ALL;
        return true;
    }
    for (int32_t r = 0; r < c->size; r++)
        if (r != c->rank && !ready(c, o, r))
            return c->status != ZDS_OK;
    uint64_t bytes, size = element_size(o);
    char *to;
    bool piped, moved = false;
    if (!find_sources(c, o, &bytes, &to, &piped))
        return true;
    if (!piped || !bytes) {
        reduce_range(c, o, to, 0, bytes / size, true);
        c->got[c->rank] = ALL;
        return true;
    }
    while (c->got[c->rank] * PIPE_BYTES < bytes) {
        uint64_t at = c->got[c->rank] * PIPE_BYTES;
        uint64_t n = bytes - at < PIPE_BYTES ? bytes - at : PIPE_BYTES;
        find_sources(c, o, &bytes, &to, &piped);
        for (int32_t r = 0; r < c->size; r++) {
            const char *piece = c->sources[r] ? (const char *)c->sources[r] + at : next_piece(c, r);
            if (!piece)
                return moved;
            c->sources[r] = piece;
        }
        reduce_range(c, o, to, at / size, n / size, false);
        for (int32_t r = 0; r < c->size; r++)
            if (r != c->rank && place_in(entry_of(c, r, o->seq), c->phase)->how == AT_PIPE)
                drop_piece(c, r);
        c->got[c->rank]++;
        moved = true;
    }
    if (o->coll.fused && o->coll.fused->segments) {
        reduce_task task = coll_fused_task(&o->coll, c->sources, c->size);
        reduce_statistics(c->host, &task);
    }
    c->got[c->rank] = ALL;
    return true;
}

/* === phases === */

static void begin_phase(comm *c, int32_t phase)
{
    c->phase = phase;
    memset(c->fed, 0, (size_t)c->size * sizeof *c->fed);
    memset(c->got, 0, (size_t)c->size * sizeof *c->got);
}

static bool took_all(const comm *c, const op *o)
{
    if (reduces(o, c->phase))
        return c->got[c->rank] == ALL;
    for (int32_t r = 0; r < c->size; r++)
        if (c->got[r] != ALL)
            return false;
    return true;
}

static void end_phase(comm *c, op *o)
{
    slot *mine = &c->slots[c->rank];
    if (o->kind == OP_ALL_REDUCE && !work_small(o) && c->phase == 0) {
        atomic_store_explicit(&mine->half, o->seq, memory_order_release);
        begin_phase(c, 1);
    } else {
        o->worked = true;
        c->to_work = o->next;
        c->phase = -1;
        atomic_store_explicit(&mine->read, o->seq, memory_order_release);
    }
    wake_all(c);
}

bool work_step(comm *c)
{
    op *o = c->to_work;
    if (!o || !o->posted || c->status)
        return false;
    if (c->phase < 0)
        begin_phase(c, 0);
    bool moved = false;
    if (place_in(entry_of(c, c->rank, o->seq), c->phase)->how == AT_PIPE)
        for (int32_t r = 0; r < c->size; r++)
            if (r != c->rank)
                moved |= feed(c, o, r);
    if (reduces(o, c->phase)) {
        moved |= take_reduced(c, o);
    } else {
        for (int32_t r = 0; r < c->size && !c->status; r++)
            if (c->got[r] != ALL)
                moved |= take_copy(c, o, r);
    }
    if (!c->status && took_all(c, o) && fed_all(c, o)) {
        /* Who gives up says so before it takes its memory back: nothing is said, all was whole. */
        if (!health_adopt(c))
            end_phase(c, o);
        return true;
    }
    return moved;
}
