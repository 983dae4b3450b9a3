/* What a communication backend's operations leave on each of several ranks, against the sums and
 * copies themselves. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "late.h"
#include "numbers.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"
#include "plugin/registry.h"
#include "ranks.h"

enum { MOST = 4099, ELEMENT = 8, GUARD = 64, UNTOUCHED = 0x5c };

enum { LATE = 1023 }; /* of so many elements the source is written when an operation waits for it */
static const uint64_t counts[] = {0, 1, 2, LATE, MOST};
enum { COUNTS = sizeof counts / sizeof *counts };

enum { ALL_REDUCE, REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, ALL_TO_ALL };
static const char *const names[] = {"all_reduce", "reduce",    "reduce_scatter",
                                    "all_gather", "broadcast", "all_to_all"};

/* === numbers === */

/* Whole numbers are multiples of 6, so that the mean of 2 or 3 is one. */
static double make_source(zds_dtype dtype, int32_t rank, uint64_t i)
{
    char room[ELEMENT];
    double value;
    if (dtype == ZDS_F32 || dtype == ZDS_F64 || dtype == ZDS_BF16 || dtype == ZDS_F16)
        value = number_random(200 + (uint64_t)rank, i) * 1.000123;
    else
        value = 6.0 * (double)((i * 7 + (uint64_t)rank * 5) % 13) - (dtype == ZDS_U8 ? 0 : 36);
    number_write(room, dtype, 0, value);
    return number_read(room, dtype, 0);
}

/* Element i of a rank's source: of the last dtype that was asked for all are kept. */
static double source(zds_dtype dtype, int32_t rank, uint64_t i)
{
    static double kept[RANKS_MOST][RANKS_MOST * MOST];
    static zds_dtype kept_dtype = -1;
    if (kept_dtype != dtype)
        for (int32_t r = 0; r < RANKS_MOST; r++)
            for (uint64_t e = 0; e < RANKS_MOST * MOST; e++)
                kept[r][e] = make_source(dtype, r, e);
    kept_dtype = dtype;
    return kept[rank][i];
}

/* What one rounding to nearest may change, relative to the number. */
static double rounding(zds_dtype dtype)
{
    return dtype == ZDS_F32    ? 0x1p-24
           : dtype == ZDS_F64  ? 0x1p-53
           : dtype == ZDS_BF16 ? 0x1p-8
           : dtype == ZDS_F16  ? 0x1p-11
                               : 0;
}

/* The reduction of elements i over all ranks, and how far a result may be from it: as many
 * roundings as there are additions. */
static double reduced(const peer *p, zds_dtype dtype, int32_t op, uint64_t i, double *slack)
{
    double sum = 0, size = 0, most = -INFINITY;
    for (int32_t r = 0; r < p->size; r++) {
        const double x = source(dtype, r, i);
        sum += x;
        size += fabs(x);
        most = fmax(most, x);
    }
    *slack = op == ZDS_MAX ? 0 : rounding(dtype) * (p->size - 1) * size * 1.0001;
    if (op == ZDS_AVG) {
        sum /= p->size;
        *slack = *slack / p->size + rounding(dtype) * fabs(sum) * 1.0001;
    }
    return op == ZDS_MAX ? most : sum;
}

/* === one operation === */

typedef struct trial {
    int kind;
    zds_dtype dtype;
    int32_t op, root;
    uint64_t count;
    bool in_place;
    char *src, *dst; /* [ranks][MOST] elements and a guard each */
} trial;

static uint64_t bytes_of(const trial *t, uint64_t elements)
{
    return elements * zds_dtype_size(t->dtype);
}

static uint64_t source_count(const peer *p, const trial *t)
{
    return t->kind == REDUCE_SCATTER || t->kind == ALL_TO_ALL ? t->count * (uint64_t)p->size
                                                              : t->count;
}

static uint64_t result_count(const peer *p, const trial *t)
{
    if ((t->kind == REDUCE && p->rank != t->root))
        return 0;
    return t->kind == ALL_GATHER || t->kind == ALL_TO_ALL ? t->count * (uint64_t)p->size : t->count;
}

/* Where the two are in memory. */
static void place(const peer *p, const trial *t, char **src, char **dst)
{
    const uint64_t mine = bytes_of(t, t->count) * (uint64_t)p->rank;
    *src = t->src;
    *dst = t->dst;
    if (t->in_place && t->kind == ALL_GATHER)
        *src = t->dst + mine;
    else if (t->in_place && t->kind == REDUCE_SCATTER)
        *dst = t->src + mine;
    else if (t->in_place && (t->kind != BROADCAST || p->rank == t->root))
        *dst = t->src;
    if (t->kind == REDUCE && p->rank != t->root)
        *dst = NULL;
}

static double expected(const peer *p, const trial *t, uint64_t i, double *slack)
{
    *slack = 0;
    switch (t->kind) {
    case REDUCE_SCATTER:
        return reduced(p, t->dtype, t->op, (uint64_t)p->rank * t->count + i, slack);
    case ALL_GATHER:
        return source(t->dtype, (int32_t)(i / t->count), i % t->count);
    case BROADCAST:
        return source(t->dtype, t->root, i);
    case ALL_TO_ALL:
        return source(t->dtype, (int32_t)(i / t->count),
                      (uint64_t)p->rank * t->count + i % t->count);
    default:
        return reduced(p, t->dtype, t->op, i, slack);
    }
}

static char *result_fault(const peer *p, const trial *t, const char *dst)
{
    for (uint64_t i = 0; i < result_count(p, t); i++) {
        double slack, want = expected(p, t, i, &slack), got = number_read(dst, t->dtype, i);
        if (!(fabs(got - want) <= slack))
            return fault_format("gives %.9g for element %llu, not %.9g", got, (unsigned long long)i,
                                want);
    }
    return NULL;
}

/* The first byte from `from` on that somebody has touched; `end` if there is none. */
static const char *touched(const char *from, const char *end)
{
    const size_t bytes = from < end ? (size_t)(end - from) : 0;
    if (!bytes || (*from == UNTOUCHED && memcmp(from, from + 1, bytes - 1) == 0))
        return end;
    while (*from == UNTOUCHED)
        from++;
    return from;
}

/* What the operation had no business with: what is behind dst, and its source. */
static char *neighbour_fault(const peer *p, const trial *t, const char *src, const char *dst)
{
    const size_t room = (size_t)p->size * MOST * ELEMENT + GUARD;
    const bool inside = dst >= t->src && dst < t->src + room;
    /* In place the rest of a scattered source is the operation's own. */
    const char *end = inside && t->kind == REDUCE_SCATTER ? t->src + bytes_of(t, source_count(p, t))
                                                          : dst + bytes_of(t, result_count(p, t));
    const char *limit = (inside ? t->src : t->dst) + room;
    const char *first = dst ? touched(end, limit) : limit;
    if (first < limit)
        return fault_format("writes %llu bytes behind the end of dst",
                            (unsigned long long)(first - end) + 1);
    for (uint64_t i = 0; !t->in_place && i < source_count(p, t); i++)
        if (!number_same(number_read(src, t->dtype, i), source(t->dtype, p->rank, i)))
            return fault_format("changes element %llu of its source", (unsigned long long)i);
    return NULL;
}

typedef struct written {
    const peer *p;
    const trial *t;
    char *src;
} written;

static void write_source(void *arg)
{
    const written *w = arg;
    for (uint64_t i = 0; i < source_count(w->p, w->t); i++)
        number_write(w->src, w->t->dtype, i, source(w->t->dtype, w->p->rank, i));
}

static char *hasty(const char *what)
{
    return fault_format("%s does not wait for the event in its waits", what);
}

static char *try(peer *p, const trial *t)
{
    const collective functions[] = {p->ops.all_reduce, p->ops.reduce,    p->ops.reduce_scatter,
                                    p->ops.all_gather, p->ops.broadcast, p->ops.all_to_all};
    const size_t room = (size_t)p->size * MOST * ELEMENT + GUARD;
    char *src, *dst;
    place(p, t, &src, &dst);
    memset(t->src, UNTOUCHED, room);
    memset(t->dst, UNTOUCHED, room);
    written w = {p, t, src};
    late_event late;
    zds_event *const waits[] = {&late.base, NULL};
    late_init(&late, write_source, &w);
    if (t->count != LATE)
        write_source(&w);
    zds_coll coll = peer_coll(p, src, dst, t->count, t->dtype);
    coll.waits = waits;
    coll.wait_count = t->count == LATE ? 2 : 0;
    coll.op = t->op;
    coll.peer = t->root;
    bench_at("%d ranks: %s of %llu of %s%s", (int)p->size, names[t->kind],
             (unsigned long long)t->count, dtype_name(t->dtype), t->in_place ? ", in place" : "");
    char *fault = peer_do(p, "it", functions[t->kind], &coll);
    if (!fault && t->count == LATE && !late.done)
        fault = hasty("it");
    if (!fault)
        fault = result_fault(p, t, dst);
    if (!fault)
        fault = neighbour_fault(p, t, src, dst);
    const uint64_t bytes = bytes_of(t, result_count(p, t));
    for (uint64_t i = 0; t->kind < ALL_GATHER && dst && i < bytes; i++)
        if (t->kind == ALL_REDUCE)
            p->board->hash[p->rank] = number_hash(p->board->hash[p->rank] ^ (unsigned char)dst[i]);
    return bench_within(fault, "%s of %llu of %s%s%s", names[t->kind], (unsigned long long)t->count,
                        dtype_name(t->dtype),
                        t->op == ZDS_AVG   ? ", mean"
                        : t->op == ZDS_MAX ? ", largest"
                                           : "",
                        t->in_place ? ", in place" : "");
}

/* === memory for them === */

typedef struct buffers {
    zds_region regions[2];
    char *own[2];
} buffers;

static char *open_buffers(peer *p, buffers *m)
{
    const size_t room = (size_t)p->size * MOST * ELEMENT + GUARD;
    *m = (buffers){0};
    for (int i = 0; i < 2; i++) {
        m->own[i] = malloc(room);
        m->regions[i] = (zds_region){.struct_size = sizeof(zds_region)};
        bench_clear(p->b);
        zds_status status = p->ops.mem_alloc(p->self, room, ZDS_MEM_SYMMETRIC, &m->regions[i]);
        if (status)
            return bench_failure(p->b, "mem_alloc", status);
        for (size_t k = 0; k < room; k++)
            if (((const char *)m->regions[i].base)[k])
                return fault_format("mem_alloc gives memory that is not zero at byte %zu", k);
    }
    return m->own[0] && m->own[1] ? NULL : fault_format("there is no memory for the check");
}

static void close_buffers(peer *p, buffers *m)
{
    for (int i = 1; i >= 0; i--) {
        p->ops.mem_free(p->self, &m->regions[i]);
        free(m->own[i]);
    }
}

/* The trial for each count, in memory of the plugin and, where it takes any, in other memory, in
 * place and not. */
static char *try_all(peer *p, const buffers *m, trial t)
{
    char *fault = NULL;
    const int ways = p->ops.flags & ZDS_COMM_COPIES ? 4 : 2;
    for (int c = 0; c < COUNTS; c++)
        for (int how = 0; how < ways && !fault; how++) {
            t.count = counts[c];
            t.in_place = how & 1;
            t.src = how & 2 ? m->own[0] : m->regions[0].base;
            t.dst = how & 2 ? m->own[1] : m->regions[1].base;
            if (!t.in_place || t.kind != ALL_TO_ALL)
                fault = try(p, &t);
        }
    return fault;
}

/* === reductions === */

static char *reduce_all(peer *p, const buffers *m)
{
    static const int32_t ops[] = {ZDS_SUM, ZDS_AVG, ZDS_MAX};
    char *fault = NULL;
    p->board->hash[p->rank] = 0;
    for (zds_dtype d = 0; d < ZDS_DTYPE_COUNT; d++)
        for (int o = 0; o < 3 && p->ops.reduce_dtypes & ZDS_DTYPE_BIT(d); o++)
            for (int kind = ALL_REDUCE; kind <= REDUCE_SCATTER && !fault; kind++)
                fault = try_all(
                    p, m, (trial){.kind = kind, .dtype = d, .op = ops[o], .root = p->size - 1});
    return fault;
}

static char *reductions(peer *p)
{
    buffers m;
    char *fault = open_buffers(p, &m);
    if (!fault)
        fault = reduce_all(p, &m);
    const uint64_t first = p->board->hash[p->rank];
    if (!fault && p->ops.flags & ZDS_COMM_DETERMINISTIC)
        fault = reduce_all(p, &m);
    if (!fault && first != p->board->hash[p->rank])
        fault = fault_format("the same reductions give other bits when they are done again, though "
                             "its flags say ZDS_COMM_DETERMINISTIC");
    if (fault)
        return fault;
    peer_meet(p);
    if (p->board->hash[0] != p->board->hash[p->rank])
        return fault_format("all_reduce has left other bits here than on rank 0");
    close_buffers(p, &m);
    return NULL;
}

/* === moves === */

/* Around the ring: each sends to the next. */
static char *messages(peer *p, const buffers *m, zds_dtype dtype, uint64_t count)
{
    zds_event *sent = NULL;
    const int32_t next = (p->rank + 1) % p->size, last = (p->rank + p->size - 1) % p->size;
    char *src = m->regions[0].base, *dst = m->regions[1].base;
    memset(dst, UNTOUCHED, m->regions[1].bytes);
    const trial t = {.kind = BROADCAST, .dtype = dtype, .count = count};
    written w = {p, &t, src};
    late_event late[2];
    zds_event *const sends[] = {&late[0].base}, *const receives[] = {&late[1].base};
    late_init(&late[0], write_source, &w);
    late_init(&late[1], NULL, NULL);
    zds_coll coll = peer_coll(p, src, NULL, count, dtype);
    coll.peer = next;
    coll.waits = sends;
    coll.wait_count = 1;
    bench_clear(p->b);
    bench_at("%d ranks: send and recv of %llu of %s", (int)p->size, (unsigned long long)count,
             dtype_name(dtype));
    if (!p->ops.send)
        return NULL;
    zds_status status = p->ops.send(p->self, &coll, &sent);
    if (status)
        return bench_failure(p->b, "send", status);
    coll.src = NULL;
    coll.dst = dst;
    coll.peer = last;
    coll.waits = receives;
    char *fault = peer_do(p, "recv", p->ops.recv, &coll);
    status = !fault && sent ? sent->ops->wait(sent) : ZDS_OK;
    if (sent)
        sent->ops->release(sent);
    if (status)
        fault = bench_failure(p->b, "send", status);
    for (int i = 0; i < 2 && !fault; i++)
        if (!late[i].done)
            fault = hasty(i ? "recv" : "send");
    for (uint64_t i = 0; i < count && !fault; i++)
        if (!number_same(number_read(dst, dtype, i), source(dtype, last, i)))
            fault = fault_format("recv of %llu of %s gives another element %llu than rank %d sent",
                                 (unsigned long long)count, dtype_name(dtype),
                                 (unsigned long long)i, (int)last);
    if (!fault && dst[bytes_of(&(trial){.dtype = dtype}, count)] != UNTOUCHED)
        fault = fault_format("recv writes past the end of dst");
    return fault;
}

static char *barriers(peer *p)
{
    for (int k = 1; k <= 20; k++) {
        late_event late;
        zds_event *const waits[] = {&late.base};
        late_init(&late, NULL, NULL);
        zds_coll coll = peer_coll(p, NULL, NULL, 0, ZDS_F32);
        coll.waits = waits;
        coll.wait_count = 1;
        if (k % p->size == p->rank) /* who comes late is another each time */
            for (volatile int i = 0; i < 100000; i++)
                ;
        atomic_fetch_add(&p->board->count, 1);
        char *fault = peer_do(p, "barrier", p->ops.barrier, &coll);
        if (fault || !late.done)
            return fault ? fault : hasty("barrier");
        if (atomic_load(&p->board->count) < k * p->size)
            return fault_format("barrier %d is done before all ranks have issued it", k);
        peer_meet(p);
    }
    return NULL;
}

/* Several operations in flight, found done by test alone; in a group where it has such. */
static char *in_flight(peer *p, const buffers *m)
{
    enum { FLIGHTS = 6, EACH = 300 };
    zds_event *done[FLIGHTS] = {0};
    int32_t *src = m->regions[0].base, *dst = m->regions[1].base;
    zds_status status = p->ops.group_begin ? p->ops.group_begin(p->self) : ZDS_OK;
    bench_clear(p->b);
    bench_at("%d ranks: %d operations in flight", (int)p->size, FLIGHTS);
    for (int k = 0; k < FLIGHTS * EACH; k++)
        src[k] = p->rank * 10000 + k;
    for (int k = 0; k < FLIGHTS && !status; k++) {
        const zds_coll coll = peer_coll(p, src + k * EACH, dst + k * EACH * p->size, EACH, ZDS_I32);
        status = p->ops.all_gather(p->self, &coll, &done[k]);
    }
    if (!status && p->ops.group_end)
        status = p->ops.group_end(p->self);
    for (int k = 0; k < FLIGHTS && !status; k++) {
        int32_t over = done[k] == NULL;
        while (!over && !status) {
            peer_push(p);
            status = done[k]->ops->test(done[k], &over);
        }
        if (done[k])
            done[k]->ops->release(done[k]);
    }
    if (status)
        return bench_failure(p->b, "one of several operations in flight", status);
    for (int k = 0; k < FLIGHTS * EACH * p->size; k++) {
        const int32_t at = k % (EACH * p->size),
                      want = at / EACH * 10000 + k / (EACH * p->size) * EACH + at % EACH;
        if (dst[k] != want)
            return fault_format("of several operations in flight element %d is %d, not %d", k,
                                dst[k], want);
    }
    return NULL;
}

/* One rank waits; the others have issued the operation, and do nothing more until it is done. */
static char *unpushed_once(peer *p, const buffers *m, int kind, int32_t waiting)
{
    const collective functions[] = {p->ops.all_reduce, p->ops.reduce,    p->ops.reduce_scatter,
                                    p->ops.all_gather, p->ops.broadcast, p->ops.all_to_all,
                                    p->ops.barrier};
    zds_event *done = NULL;
    zds_coll coll = peer_coll(p, m->regions[0].base, m->regions[1].base, MOST, ZDS_F32);
    coll.peer = waiting;
    if (kind == REDUCE && p->rank != waiting)
        coll.dst = NULL;
    bench_clear(p->b);
    bench_at("%d ranks: operation %d that nobody moves forward", (int)p->size, kind);
    if (p->rank == waiting)
        peer_meet(p);
    zds_status status = functions[kind](p->self, &coll, &done);
    if (p->rank != waiting)
        peer_meet(p);
    else if (!status && done)
        status = done->ops->wait(done);
    if (status)
        return bench_within(
            bench_failure(p->b, kind <= ALL_TO_ALL ? names[kind] : "barrier", status),
            "while the others do nothing (its flags say ZDS_COMM_AUTO_PROGRESS)");
    peer_meet(p);
    if (p->rank != waiting && done)
        status = done->ops->wait(done);
    if (done)
        done->ops->release(done);
    return status ? bench_failure(p->b, "an operation that others have ended", status) : NULL;
}

static char *unpushed(peer *p)
{
    buffers m;
    char *fault = open_buffers(p, &m);
    for (int kind = ALL_REDUCE; kind <= ALL_TO_ALL + 1; kind++)
        for (int32_t r = 0; r < p->size && !fault; r++)
            fault = unpushed_once(p, &m, kind, r);
    if (!fault)
        close_buffers(p, &m);
    return fault;
}

char *ranks_unpushed(bench *b)
{
    zds_comm_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (ops.flags & ZDS_COMM_AUTO_PROGRESS)
        return ranks_worlds(b, unpushed);
    b->skipped = fault_format("its flags do not say ZDS_COMM_AUTO_PROGRESS");
    return NULL;
}

static char *moves(peer *p)
{
    buffers m;
    char *fault = open_buffers(p, &m);
    for (zds_dtype d = 0; d < ZDS_DTYPE_COUNT && !fault; d++) {
        for (int kind = ALL_GATHER; kind <= ALL_TO_ALL && !fault; kind++)
            fault = try_all(p, &m, (trial){.kind = kind, .dtype = d});
        if (!fault)
            fault = try_all(p, &m, (trial){.kind = BROADCAST, .dtype = d, .root = p->size - 1});
        for (int c = 0; c < COUNTS && !fault; c++)
            fault = messages(p, &m, d, counts[c]);
    }
    if (!fault)
        fault = barriers(p);
    if (!fault)
        fault = in_flight(p, &m);
    if (!fault)
        close_buffers(p, &m);
    return fault;
}

/* === fused === */

enum { FUSED = 2100, SEGMENTS = 2, CHUNK = 1024, CHUNKS = 3, SPOILT = 50 };
static const zds_segment segments[SEGMENTS] = {{3, 1030}, {1100, 900}};

typedef struct fusion {
    bool scatter; /* else reduce, to the last rank */
    zds_dtype src_dtype, dst_dtype;
    int32_t accumulate;
} fusion;

/* plugin.h's formula for element i of this rank's result, rounded as it is stored. */
static float fused_value(const peer *p, const fusion *f, uint64_t i)
{
    char room[ELEMENT];
    float sum = 0;
    const uint64_t at = f->scatter ? (uint64_t)p->rank * FUSED + i : i;
    for (int32_t r = 0; r < p->size; r++)
        sum += 0.25f * (float)source(f->src_dtype, r, at);
    sum *= 0.5f;
    number_write(room, f->dst_dtype, 0, (double)(f->accumulate ? (float)(i % 128) + sum : sum));
    return (float)number_read(room, f->dst_dtype, 0);
}

/* In the order that plugin.h prescribes. */
static double chunk_sum(const void *dst, zds_dtype dtype, uint64_t first, uint64_t count)
{
    double lanes[16] = {0};
    for (uint64_t i = 0; i < count; i++) {
        const double x = number_read(dst, dtype, first + i);
        lanes[i % 16] += x * x;
    }
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

static char *fused_fault(const peer *p, const fusion *f, const void *dst, const double *sums,
                         uint64_t non_finite)
{
    size_t chunk = 0;
    for (uint64_t i = 0; i < FUSED; i++) {
        const double got = number_read(dst, f->dst_dtype, i), want = (double)fused_value(p, f, i);
        if (i != SPOILT && !number_same(got, want))
            return fault_format("gives %.9g for element %llu, not %.9g", got, (unsigned long long)i,
                                want);
    }
    for (int s = 0; s < SEGMENTS; s++)
        for (uint64_t at = 0; at < segments[s].count; at += CHUNK, chunk++) {
            const uint64_t left = segments[s].count - at;
            const double want =
                chunk_sum(dst, f->dst_dtype, segments[s].first + at, left < CHUNK ? left : CHUNK);
            if (s + at > 0 && !number_same(want, sums[chunk]))
                return fault_format("chunk %zu has the sum of squares %.17g, not %.17g", chunk,
                                    sums[chunk], want);
        }
    return non_finite == 1 ? NULL
                           : fault_format("it counts %llu non-finite elements where there is one",
                                          (unsigned long long)non_finite);
}

static char *try_fused(peer *p, const buffers *m, const fusion *f)
{
    double sums[CHUNKS] = {0};
    uint64_t non_finite = 99;
    const bool result = f->scatter || p->rank == p->size - 1;
    char *src = m->regions[0].base, *dst = m->regions[1].base;
    const uint64_t parts = f->scatter ? (uint64_t)p->size : 1;
    for (uint64_t i = 0; i < parts * FUSED; i++)
        number_write(src, f->src_dtype, i,
                     p->rank == 0 && i % FUSED == SPOILT ? (double)NAN
                                                         : source(f->src_dtype, p->rank, i));
    for (uint64_t i = 0; i < FUSED; i++)
        number_write(dst, f->dst_dtype, i, (double)(i % 128));
    zds_fused how = {
        .struct_size = sizeof how, .prescale = 0.25, .postscale = 0.5, .accumulate = f->accumulate};
    if (result) {
        how.segments = segments;
        how.segment_stride = sizeof *segments;
        how.segment_count = SEGMENTS;
        how.chunk_sums = sums;
        how.non_finite = &non_finite;
    }
    zds_coll coll = peer_coll(p, src, result ? dst : NULL, FUSED, f->src_dtype);
    coll.dst_dtype = f->dst_dtype;
    coll.peer = p->size - 1;
    coll.fused = &how;
    const char *name = f->scatter ? "reduce_scatter" : "reduce";
    bench_at("%d ranks: fused %s", (int)p->size, name);
    char *fault = peer_do(p, "it", f->scatter ? p->ops.reduce_scatter : p->ops.reduce, &coll);
    if (!fault && result)
        fault = fused_fault(p, f, dst, sums, non_finite);
    return bench_within(fault, "%s from %s to %s%s", name, dtype_name(f->src_dtype),
                        dtype_name(f->dst_dtype), f->accumulate ? ", accumulated" : "");
}

static char *fused(peer *p)
{
    static const zds_dtype floats[] = {ZDS_F32, ZDS_BF16, ZDS_F16};
    buffers m;
    char *fault = open_buffers(p, &m);
    for (int s = 0; s < 3 && !fault; s++)
        for (int k = 0; k < 8 && !fault && p->ops.reduce_dtypes & ZDS_DTYPE_BIT(floats[s]); k++) {
            const fusion f = {.scatter = k & 1,
                              .src_dtype = floats[s],
                              .dst_dtype = k & 2 ? floats[s] : ZDS_F32,
                              .accumulate = k >> 2};
            fault = try_fused(p, &m, &f);
        }
    if (!fault)
        close_buffers(p, &m);
    return fault;
}

/* === the checks === */

char *ranks_reductions(bench *b)
{
    return ranks_worlds(b, reductions);
}

char *ranks_moves(bench *b)
{
    return ranks_worlds(b, moves);
}

char *ranks_fused(bench *b)
{
    zds_comm_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (ops.flags & ZDS_COMM_FUSED)
        return ranks_worlds(b, fused);
    b->skipped = fault_format("its flags do not say ZDS_COMM_FUSED");
    return NULL;
}
