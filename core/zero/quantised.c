/* What travels between ranks as integers of few bits (host/quantise.h): parameters that are
 * gathered into their place, from the owners' exact parts, and gradients on their way to the
 * owners.
 *
 * Only spans in parts: where ranks share pages nothing travels, and what every rank keeps whole is
 * small. Each rank's part is a run of its own, so that its bytes are
 *     part elements x bits / 8 + 4 for each block or a part of one,
 * of which a gathering takes 8 bits to all ranks, and a reduction 4 to each owner. An owner, too,
 * computes with what came out of its integers: all ranks have the same bits. Where nodes have
 * several ranks, gradients go within nodes first: each rank adds what its node has for the owners
 * of its place on all nodes, and sends them that, as 4 bits again. Integers are made and read by
 * the host, and go by its connection; what is on a device comes and goes in windows. */
#include <stdlib.h>
#include <string.h>

#include "host/log.h"
#include "host/quantise.h"
#include "zero/parts.h"

bool quantised_gathers(const zero *z, const layout_span *span)
{
    const zero_wishes *wish = &z->wish;
    return params_in_parts(z, span) && !is_alone(z) &&
           (wish->quantised_params || (wish->quantised_frozen && !layout_is_trained(span)));
}

bool quantised_reduces(const zero *z, const layout_span *span)
{
    return z->wish.quantised_grads && params_in_parts(z, span) && !is_alone(z) && !span->parts &&
           layout_is_trained(span);
}

/* === memory === */

/* A rank's part as it is gathered. */
static uint64_t run_bytes(const layout_span *span, uint32_t rank)
{
    return quantised_bytes(QUANTISED_8, layout_part_count(span, rank));
}

/* Of the ranks before this one. */
static uint64_t run_at(const layout_span *span, uint32_t rank)
{
    uint64_t at = span->parts ? 0 : rank * run_bytes(span, 0);
    for (uint32_t r = 0; span->parts && r < rank; r++)
        at += run_bytes(span, r);
    return at;
}

static uint64_t gathered(const zero *z, const layout_span *span)
{
    return quantised_gathers(z, span) ? run_at(span, z->lay->world_size) : 0;
}

/* What goes to all owners, or comes from all ranks. */
static uint64_t reduced(const zero *z, const layout_span *span)
{
    return quantised_reduces(z, span)
               ? z->lay->world_size * quantised_bytes(QUANTISED_4, span->part)
               : 0;
}

static uint64_t most(const zero *z, uint64_t (*bytes_of)(const zero *z, const layout_span *span))
{
    uint64_t most_bytes = 0;
    for (uint32_t k = 0; k < z->lay->span_count; k++) {
        uint64_t bytes = bytes_of(z, &z->lay->spans[k]);
        most_bytes = bytes > most_bytes ? bytes : most_bytes;
    }
    return most_bytes;
}

/* A wish that changes nothing is said, not refused: the same config serves any ranks. */
static void tell_exact(const zero *z)
{
    const zero_wishes *wish = &z->wish;
    if (wish->stage == 3 && !z->params.in_parts && !z->with.tier->planned &&
        z->with.peers->rank == 0 &&
        (wish->quantised_params || wish->quantised_frozen || wish->quantised_grads))
        log_line(ZDS_LOG_INFO, -1, NULL,
                 "zero_quantized_*: these ranks share pages, or are one, and nothing travels that "
                 "could be quantised: parameters and gradients stay exact");
}

/* Whether nodes have several ranks each, as many, and in order: all say the same. */
static zds_status agree_on_nodes(zero *z, bool *alike, zds_error *error)
{
    static const char doing[] = "comparing nodes";
    peers *p = z->with.control;
    const int32_t size = p->node_size;
    int64_t mine = size > 1 && size < p->world_size && p->world_size % size == 0 &&
                           p->rank % size == p->node_rank
                       ? size
                       : 0;
    const void *rows;
    zds_status status = peers_gather(p, &mine, sizeof mine, &rows, doing);
    if (status)
        return error_set(error, status, "%s", p->failure->text ? p->failure->text : doing);
    *alike = mine > 0;
    for (int32_t r = 0; r < p->world_size; r++)
        *alike = *alike && memcmp((const char *)rows + r * sizeof mine, &mine, sizeof mine) == 0;
    return ZDS_OK;
}

/* Two levels of cells, where operations of each take the memory of all. */
static zds_status open_levels(zero *z, zds_error *error)
{
    quantised_part *q = &z->quantised;
    peers *p = z->with.control;
    if (z->with.tier->planned || p->one_node || !(p->ops->flags & ZDS_COMM_COPIES))
        return ZDS_OK;
    zds_status status = agree_on_nodes(z, &q->levels, error);
    if (status || !q->levels)
        return status;
    const int32_t size = p->node_size;
    status = peers_cell_open(p, &q->node, p->rank / size, p->rank % size, size, error);
    return status ? status
                  : peers_cell_open(p, &q->across, p->rank % size, p->rank / size,
                                    p->world_size / size, error);
}

zds_status quantised_create(zero *z, zds_error *error)
{
    static const char what[] = "quantised parameters";
    const uint64_t bytes = most(z, gathered), grads = most(z, reduced);
    zds_status status = ZDS_OK;
    tell_exact(z);
    if (grads)
        status = peers_alloc(z->with.control, &z->quantised.grads, "quantised gradients", 2 * grads,
                             ZDS_MEM_SYMMETRIC, error);
    if (grads && !status)
        status = open_levels(z, error);
    for (int i = 0; bytes && !status && i < QUANTISED_INBOXES; i++) {
        quantised_inbox *w = &z->quantised.inboxes[i];
        w->span = LAYOUT_NONE;
        status = peers_alloc(z->with.control, &w->memory, what, bytes, ZDS_MEM_SYMMETRIC, error);
        w->events = status ? NULL : calloc(z->lay->world_size, sizeof(zds_event *));
        if (!status && !w->events)
            status = zero_no_memory(error, what, 0);
    }
    return status;
}

void quantised_destroy(zero *z)
{
    peers_drop(z->with.control, &z->quantised.reduction);
    peers_cell_close(z->with.control, &z->quantised.node);
    peers_cell_close(z->with.control, &z->quantised.across);
    peers_free(z->with.control, &z->quantised.grads);
    for (int i = 0; i < QUANTISED_INBOXES; i++) {
        quantised_inbox *w = &z->quantised.inboxes[i];
        for (uint32_t r = 0; w->events && r < z->lay->world_size; r++)
            peers_drop(z->with.control, &w->events[r]);
        free(w->events);
        peers_free(z->with.control, &w->memory);
    }
}

/* === passes === */

enum { RUN = 64 << 10 /* elements that a thread takes at a time: whole blocks */ };

/* Over elements of a run, whose values are of `dtype`. */
typedef struct pass {
    void (*over)(const struct pass *p, char *values, uint64_t first, uint64_t count);
    char *run;        /* that is read or written, */
    const char *runs; /* or that are added */
    quantised_bits bits;
    uint64_t all;
    zds_dtype dtype;
    bool reads, writes; /* the values */
    quantised_sum sum;
} pass;

static void quantise_some(const pass *p, char *values, uint64_t first, uint64_t count)
{
    quantise(p->run, p->bits, p->all, first, count, values, p->dtype);
}

static void dequantise_some(const pass *p, char *values, uint64_t first, uint64_t count)
{
    dequantise(values, p->dtype, p->run, p->bits, p->all, first, count);
}

static void sum_some(const pass *p, char *values, uint64_t first, uint64_t count)
{
    dequantise_sum(values, p->dtype, p->runs, p->bits, p->all, first, count, &p->sum);
}

static void add_some(const pass *p, char *values, uint64_t first, uint64_t count)
{
    (void)values; /* they are between runs */
    quantise_sum(p->run, p->runs, p->bits, p->all, first, count, &p->sum);
}

/* Values that the host can point to, from element `first` of the run. */
typedef struct shown {
    const pass *pass;
    char *values;
    uint64_t first, count;
} shown;

static void shown_run(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const shown *s = arg;
    const uint64_t at = (uint64_t)i * RUN, left = s->count - at;
    s->pass->over(s->pass, s->values + at * zds_dtype_size(s->pass->dtype), s->first + at,
                  left < RUN ? left : RUN);
}

static void pass_here(zero *z, const shown *s)
{
    pool_run(z->with.threads, (size_t)((s->count + RUN - 1) / RUN), shown_run,
             (void *)(uintptr_t)s);
}

/* All of the run, whose values are at `at`. */
static zds_status pass_over(zero *z, const pass *p, bufref at)
{
    zds_status status = ZDS_OK;
    if (zero_points_to(at)) {
        pass_here(z, &(shown){p, bufref_at(at, 0), 0, p->all});
        return ZDS_OK;
    }
    for (uint64_t first = 0; !status && first < p->all; first += STAGING_ELEMENTS) {
        uint64_t left = p->all - first, n = left < STAGING_ELEMENTS ? left : STAGING_ELEMENTS;
        const uint64_t bytes = n * zds_dtype_size(p->dtype);
        if (p->reads)
            status = zero_fetch(z, z->params.raw, bufref_moved(at, first), bytes);
        if (!status)
            pass_here(z, &(shown){p, z->params.raw, first, n});
        if (!status && p->writes)
            status = zero_send(z, bufref_moved(at, first), z->params.raw, bytes);
    }
    return status;
}

/* === parameters === */

static char *inbox_at(const quantised_inbox *w, uint64_t bytes)
{
    return (char *)w->memory.slab.block.pointer + bytes;
}

/* All owners' runs to all ranks: equal ones at once, others one by one. */
static zds_status issue(zero *z, quantised_inbox *w, uint32_t k, const char *doing)
{
    peers *p = z->with.control;
    const layout_span *span = &z->lay->spans[k];
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = (uint64_t)k << 8 | 4,
                     .what = doing,
                     .src = inbox_at(w, run_at(span, (uint32_t)p->rank)),
                     .dst = inbox_at(w, 0),
                     .count = run_bytes(span, 0),
                     .src_dtype = ZDS_U8,
                     .dst_dtype = ZDS_U8};
    if (!span->parts)
        return peers_issue(p, p->ops->all_gather, &coll, doing, &w->events[0]);
    zds_status status = ZDS_OK;
    for (uint32_t r = 0; !status && r < z->lay->world_size; r++) {
        coll.count = run_bytes(span, r);
        coll.peer = (int32_t)r;
        coll.src = coll.dst = inbox_at(w, run_at(span, r));
        if (coll.count)
            status = peers_issue(p, p->ops->broadcast, &coll, doing, &w->events[r]);
    }
    return status;
}

zds_status quantised_gather(zero *z, uint32_t k, bufref own, const char *doing)
{
    quantised_part *q = &z->quantised;
    quantised_inbox *w = &q->inboxes[q->next];
    const layout_span *span = &z->lay->spans[k];
    const uint32_t rank = (uint32_t)z->with.peers->rank;
    q->next = (q->next + 1) % QUANTISED_INBOXES;
    zds_status status = w->span < 0 ? ZDS_OK : publish_await(z, (uint32_t)w->span);
    if (!status && z->wire) /* on which parts come that rest elsewhere */
        status = zero_follow(z, z->queue, z->wire);
    const pass p = {.over = quantise_some,
                    .run = inbox_at(w, run_at(span, rank)),
                    .bits = QUANTISED_8,
                    .all = layout_part_count(span, rank),
                    .dtype = own.dtype,
                    .reads = true};
    if (!status)
        status = pass_over(z, &p, own);
    if (!status)
        status = issue(z, w, k, doing);
    w->span = status ? LAYOUT_NONE : (int64_t)k;
    return status;
}

zds_status quantised_await(zero *z, uint32_t k)
{
    const layout_span *span = &z->lay->spans[k];
    quantised_inbox *w = z->quantised.inboxes;
    while (w < z->quantised.inboxes + QUANTISED_INBOXES && (!w->events || w->span != (int64_t)k))
        w++;
    if (w == z->quantised.inboxes + QUANTISED_INBOXES)
        return ZDS_OK;
    zds_status status = ZDS_OK;
    for (uint32_t r = 0; !status && r < z->lay->world_size; r++)
        status = peers_wait(z->with.control, &w->events[r], z->live.spans[k].what);
    for (uint32_t r = 0; !status && r < z->lay->world_size; r++) {
        const pass p = {.over = dequantise_some,
                        .run = inbox_at(w, run_at(span, r)),
                        .bits = QUANTISED_8,
                        .all = layout_part_count(span, r),
                        .dtype = zero_dtype(z, span),
                        .writes = true};
        status =
            pass_over(z, &p, bufref_moved(params_of_span(z, span), layout_part_first(span, r)));
    }
    w->span = LAYOUT_NONE;
    return status;
}

/* === gradients === */

/* Of a span's part, as it is reduced. */
static uint64_t grads_bytes(const layout_span *span)
{
    return quantised_bytes(QUANTISED_4, span->part);
}

/* Where this rank puts what it has for an owner: in their order, or, in two levels, together what
 * goes by the same rank of this node. */
static uint64_t place_for(const zero *z, uint32_t owner)
{
    const quantised_part *q = &z->quantised;
    const uint32_t size = (uint32_t)q->node.size, nodes = (uint32_t)q->across.size;
    return q->levels ? owner % size * nodes + owner / size : owner;
}

/* All of `sent`, and as much to where it comes, `count` bytes for each of the ranks. */
static zds_coll exchange(const zero *z, uint32_t k, char *sent, uint64_t ranks, uint64_t count)
{
    return (zds_coll){.struct_size = sizeof(zds_coll),
                      .tag = (uint64_t)k << 8 | 1,
                      .what = z->grads.spans[k].what,
                      .src = sent,
                      .dst = sent + ranks * count,
                      .count = count,
                      .src_dtype = ZDS_U8,
                      .dst_dtype = ZDS_U8};
}

zds_status quantised_reduce(zero *z, uint32_t k, bufref from)
{
    quantised_part *q = &z->quantised;
    peers *p = z->with.control;
    const layout_span *span = &z->lay->spans[k];
    const uint64_t bytes = grads_bytes(span);
    char *sent = q->grads.slab.block.pointer;
    zds_status status = ZDS_OK;
    for (uint32_t r = 0; !status && r < z->lay->world_size; r++) {
        const pass to = {.over = quantise_some,
                         .run = sent + place_for(z, r) * bytes,
                         .bits = QUANTISED_4,
                         .all = span->part,
                         .dtype = from.dtype,
                         .reads = true};
        status = pass_over(z, &to, bufref_moved(from, r * span->part));
    }
    if (status)
        return status;
    if (q->levels) {
        const zds_coll coll =
            exchange(z, k, sent, (uint64_t)q->node.size, (uint64_t)q->across.size * bytes);
        return peers_issue_in(p, &q->node, p->ops->all_to_all, &coll, coll.what, &q->reduction);
    }
    const zds_coll coll = exchange(z, k, sent, z->lay->world_size, bytes);
    return peers_issue(p, p->ops->all_to_all, &coll, coll.what, &q->reduction);
}

/* What came from the ranks of this node, added, goes to the owners on all nodes that have this
 * rank's place. What was sent before makes room. */
static zds_status reduce_across(zero *z, uint32_t k)
{
    quantised_part *q = &z->quantised;
    peers *p = z->with.control;
    const layout_span *span = &z->lay->spans[k];
    const uint64_t bytes = grads_bytes(span), nodes = (uint64_t)q->across.size;
    char *sent = q->grads.slab.block.pointer, *came = sent + z->lay->world_size * bytes;
    for (uint64_t m = 0; m < nodes; m++) {
        const pass to = {
            .over = add_some,
            .run = sent + m * bytes,
            .runs = came + m * bytes,
            .bits = QUANTISED_4,
            .all = span->part,
            .sum = {(uint32_t)q->node.size, nodes * bytes, z->wish.prescale, 1, false}};
        pass_here(z, &(shown){&to, to.run, 0, span->part});
    }
    const zds_coll coll = exchange(z, k, sent, nodes, bytes);
    zds_status status =
        peers_issue_in(p, &q->across, p->ops->all_to_all, &coll, coll.what, &q->reduction);
    return status ? status : peers_wait(p, &q->reduction, coll.what);
}

zds_status quantised_wait(zero *z, uint32_t k)
{
    zds_status status =
        peers_wait(z->with.control, &z->quantised.reduction, z->grads.spans[k].what);
    return !status && z->quantised.levels ? reduce_across(z, k) : status;
}

zds_status quantised_take(zero *z, uint32_t k, bufref to, bool add)
{
    const quantised_part *q = &z->quantised;
    const layout_span *span = &z->lay->spans[k];
    const uint64_t bytes = grads_bytes(span);
    const uint32_t ranks = q->levels ? (uint32_t)q->across.size : z->lay->world_size;
    const pass p = {
        .over = sum_some,
        .runs = (const char *)q->grads.slab.block.pointer + ranks * bytes,
        .bits = QUANTISED_4,
        .all = span->part,
        .dtype = to.dtype,
        .reads = add,
        .writes = true,
        .sum = {ranks, bytes, q->levels ? 1 : z->wish.prescale, z->wish.postscale, add}};
    return pass_over(z, &p, to);
}
