/* What ZeRO is made of, for the files of this folder alone: one part, one subject.
 *
 *  params     where parameters are, and how the ranks come to have them
 *  residency  of what ranks keep parts of: whole while it is used
 *  publish    what owners have updated on its way to all
 *  quantised  what travels as integers of few bits
 *  secondary  a second copy of parameters, in cells
 *  grads      gradients on their way from backward to their owners
 *  norm       their norm, and the norms of tensors
 *  stream     the optimizer's pass over what this rank owns (stream.h)
 *  overlap    or span by span, while backward goes on (likewise) */
#ifndef CORE_ZERO_PARTS_H
#define CORE_ZERO_PARTS_H

#include "zero/layout.h"
#include "zero/stream.h"
#include "zero/zero.h"

/* === params === */

typedef struct module_use {
    zds_slot *slots; /* [slot_count] */
    uint32_t slot_count;
    bool *none;      /* [slot_count]: no gradient comes from this use */
    uint32_t *spans; /* [span_count] of its parameters that are in parts */
    uint32_t span_count;
} module_use;

/* Whose pages parameters are in. */
typedef enum pages {
    PAGES_OWN,       /* no peer reads them: huge where that is possible */
    PAGES_SYMMETRIC, /* peers read this rank's own */
    PAGES_NODE       /* one for all ranks of the node */
} pages;

typedef struct params_part {
    pages pages;
    /* Ranks have no more than their parts, but for what is kept and what is gathered now. */
    bool in_parts;
    bool *kept; /* [params]: whole on every rank all the same */
    peer_slab trained, frozen;
    slab home;    /* of parts that rest elsewhere */
    uint64_t *at; /* [spans]: their bytes in the three; of one in parts, those of this rank's */
    bool *away;   /* [spans]: its parts rest elsewhere */
    module_use *modules; /* [modules] */
    peer_slab staged;    /* the memory of */
    float *staging;      /* [STAGING_ELEMENTS]: values in and out, */
    void *raw;           /* likewise, in the type of what is on a device; NULL: nothing is */
} params_part;

enum { STAGING_ELEMENTS = 1 << 20 };

/* === residency === */

/* A span in parts is SHARDED, or it has a place: GATHERING while its gathering is pending
 * (span_publish), then RESIDENT. */
typedef struct span_live {
    bool placed;
    uint32_t holds;    /* acquired and not released: it stays */
    uint64_t at;       /* its bytes in live_part.memory, */
    peer_slab beyond;  /* or memory of its own: there was no room */
    uint64_t used;     /* when it was acquired last */
    zds_event *coming; /* this rank's part, from where it rests */
    char *what;        /* it is, for messages */
} span_live;

typedef struct live_part {
    peer_slab memory; /* of what is gathered at a time: `bytes` */
    uint64_t bytes;
    span_live *spans; /* [spans] */
    uint32_t *placed; /* [placed_count] spans in `memory`, by address */
    uint32_t placed_count;
    uint32_t *missing; /* [spans]: those that an acquire brings */
    /* Modules in the order in which this micro step acquires them, each twice its number and 1 for
     * backward; and in which the one before did, which foretells what comes next as long as they
     * agree. */
    uint32_t *seen, *plan; /* [room] */
    size_t seen_count, plan_count, room;
    bool recording, foretold;
    /* Modules held; and whether one was acquired while another was, in this micro step and in the
     * one before: what follows one alone is not what was done then. */
    uint64_t held;
    bool seen_together, plan_together;
    uint64_t clock;
    bool told; /* that it went beyond its memory */
} live_part;

/* === publish === */

typedef struct span_publish {
    /* Owners have written, or will in this step, or it is being gathered; nobody has waited for it
     * yet. */
    bool pending;
    zds_event **events; /* [event_count] of its gathering: one, or one an owner */
    size_t event_count;
    bool counted;          /* this rank has said that it has written its part, or sent it */
    uint64_t epoch;        /* steps that have written it */
    atomic_uint unwritten; /* tiles of it that this step has not written */
} span_publish;

typedef struct publish_part {
    span_publish *spans; /* [spans] */
    /* Where parameters are the node's: of each span, how many parts of it were written so far, by
     * all ranks together; its `epoch` by each of them. */
    peer_counters counters;
} publish_part;

/* === quantised === */

/* Where the integers of a span arrive that is being gathered. */
typedef struct quantised_inbox {
    peer_slab memory;   /* each rank's run */
    zds_event **events; /* [world_size] of its gathering: one, or one an owner */
    int64_t span;       /* LAYOUT_NONE: none is */
} quantised_inbox;

enum { QUANTISED_INBOXES = 2 /* one arrives while another is on its way */ };

typedef struct quantised_part {
    quantised_inbox inboxes[QUANTISED_INBOXES];
    uint32_t next;   /* to be taken, once what is on its way there has come */
    peer_slab grads; /* runs for all owners, then those of all ranks for this one */
    zds_event *reduction;
    /* Of reductions in two levels: the ranks of this node, and those of the others that have this
     * one's place in theirs. */
    peer_cell node, across;
    bool levels;
} quantised_part;

/* === secondary === */

/* A second copy of spans in parts, cut among the ranks of a cell. */
typedef struct secondary_part {
    bool there;
    peer_cell cell;
    slab copies;  /* this rank's shares */
    uint64_t *at; /* [spans]: their bytes in it */
    bool *fresh;  /* [spans]: it is what the owners have */
} secondary_part;

/* === grads === */

typedef enum span_state { SPAN_IDLE, SPAN_OPEN, SPAN_REDUCING } span_state;

typedef struct span_run {
    span_state state;
    bool spare;         /* while OPEN: its gradient is in `spare`, not in `buffers` */
    uint32_t waiting;   /* modules that this micro step has not reported */
    zds_event **events; /* [event_count] of the reduction in flight: one, or one an owner */
    size_t event_count;
    uint64_t full_at, shard_at; /* its bytes in `full`, this rank's part's in `shard` */
    zds_fused fused;            /* its arguments, */
    zds_fused fused_away;       /* and those of a reduction to another owner */
    zds_segment *segments;      /* [segment_count] parameters in this rank's part, for the norm */
    size_t segment_count;
    double *chunk_sums; /* [chunk_count] */
    size_t chunk_count;
    uint64_t non_finite;
    double own_sum_squares; /* of all this rank's own gradient, where it is not reduced */
    char *what;             /* it is, for messages */
    bool accumulated;       /* the part holds micro steps of this optimizer step */
    uint64_t presence_at;   /* elements before those of its parameters in zero.presence, */
    zds_event *presence;    /* which the ranks are telling each other */
} span_run;

typedef struct grads_part {
    /* Where a rank's gradients are between micro steps: whole, or its own parts only. */
    bool in_parts;
    /* A part is kept until its span is updated: two spans' at a time. */
    bool passing;
    bool fused;
    peer_slab full;     /* whole, as they are added up, */
    peer_slab shard;    /* or in parts */
    peer_slab buffers;  /* as backward writes them */
    slab spare;         /* likewise, all gradients: once callers hold more than `buffers` has */
    peer_slab travel;   /* as they travel, where that is as a copy */
    span_run *spans;    /* [spans] */
    uint32_t *occupied; /* [occupied_count]: spans whose buffers are being written or read */
    uint32_t occupied_count;
    int64_t travelling; /* span whose copy is in `travel`, or -1 */
    int64_t last;       /* span whose reduction was begun last, or -1 */
    /* [params]: the buffer holds something of this micro step (buffered) or optimizer step. */
    bool *written;
    bool *present;  /* [params]: there is a gradient in this optimizer step */
    uint32_t *held; /* [params]: uses whose callers may write the gradient now */
    /* Of chunks of the largest parameter, where the optimizer may reduce itself. */
    double *own_sums;
    slab sums; /* of chunks, on a device */
} grads_part;

enum { ZERO_HELD = 16 };

struct zero {
    zero_wishes wish;
    zero_means with;
    layout *lay;
    params_part params;
    live_part live;
    publish_part publish;
    quantised_part quantised;
    secondary_part secondary;
    grads_part grads;
    stream_part stream;
    overlap_part overlap;
    peer_slab presence; /* a byte a parameter, sent and received */
    zds_stream *queue;  /* where a device works for this; NULL: the host does */
    /* Where it has what goes on between ranks, so that the queue need not wait for it. */
    zds_stream *wire;
    zds_event *held[ZERO_HELD];
    size_t held_count;
    bool boundary, local;
};

/* Of a span's parameters, and of what backward leaves for them. */
static inline zds_dtype zero_dtype(const zero *z, const layout_span *span)
{
    return span->wide ? ZDS_F32 : z->wish.param_dtype;
}

/* In which its micro steps are added up. */
static inline zds_dtype zero_accum_dtype(const zero *z, const layout_span *span)
{
    return span->wide ? ZDS_F32 : z->wish.accum_dtype;
}

static inline bool is_alone(const zero *z)
{
    return z->with.peers->world_size == 1;
}

/* zero.c: no memory for `what`; bytes 0: not of the model's size */
zds_status zero_no_memory(zds_error *error, const char *what, uint64_t bytes);
/* Memory of this rank's own, zeroed. */
zds_status zero_alloc(tier *t, slab *s, const char *purpose, uint64_t bytes, zds_error *error);

/* Likewise, for operations of the ranks, which may have to know of it. */
zds_status zero_alloc_known(zero *z, tier *t, peer_slab *s, const char *purpose, uint64_t bytes,
                            zds_error *error);

/* The host's code may point into what parameters, gradients and states are in. */
static inline bool zero_is_here(const zero *z)
{
    return z->with.tier->in_host;
}

/* Operations of the ranks take memory that they do not know. */
static inline bool zero_any_memory(const zero *z)
{
    return zero_is_here(z) && z->with.peers->ops->flags & ZDS_COMM_COPIES;
}

/* Masters and states rest where the optimizer cannot compute with them. */
static inline bool zero_rests(const zero *z)
{
    zds_device a = z->with.tier->info.device, b = z->with.states_tier->info.device;
    return a.space != b.space || a.ordinal != b.ordinal;
}

/* Parameters rest where nothing computes with them, but for those that stay. */
static inline bool zero_params_rest(const zero *z)
{
    zds_device a = z->with.tier->info.device, b = z->with.params_tier->info.device;
    return a.space != b.space || a.ordinal != b.ordinal;
}

/* Masters are kept apart from the parameters, but for wide ones that are here. */
static inline bool zero_has_output(const zero *z)
{
    return z->wish.master_dtype != z->wish.param_dtype || zero_rests(z) || zero_params_rest(z);
}
static inline bool zero_is_master(const zero *z, const layout_span *span)
{
    return !zero_rests(z) && !zero_params_rest(z) && z->wish.master_dtype == zero_dtype(z, span);
}
/* The host's code may point there. */
static inline bool zero_points_to(bufref b)
{
    return b.slab->tier->in_host;
}

/* passes.c: what is done to bytes, in the order of the queue; a failure is the end of the run */
zds_status zero_convert(zero *z, bufref to, bufref from, uint64_t count);
zds_status zero_accumulate(zero *z, bufref to, bufref from, double scale, bool add, uint64_t count);
zds_status zero_clear(zero *z, bufref to, uint64_t count);
zds_status zero_fill(zero *z, bufref to, double value, uint64_t count);
/* Between a place and the host's memory; over when it returns. */
zds_status zero_fetch(zero *z, void *to, bufref from, uint64_t bytes);
zds_status zero_send(zero *z, bufref to, const void *from, uint64_t bytes);
zds_status zero_sync(zero *z);
/* What is put on one of two streams from now on comes after what is on the other. */
zds_status zero_follow(zero *z, const zds_stream *later, const zds_stream *earlier);
/* Likewise; *event: what was waited for, which the caller releases. */
zds_status zero_follow_event(zero *z, const zds_stream *later, const zds_stream *earlier,
                             zds_event **event);
/* Releases an event once it is done. */
void zero_hold(zero *z, zds_event *event);
/* What a tier said of an operation; frees its text. */
zds_status zero_checked(zero *z, zds_status status, zds_error *error);

/* params.c */
/* Before the layout: whose pages, and whether ranks have more than their parts. */
zds_status params_choose(zero *z, zds_error *error);
zds_status params_open(zero *z, zds_error *error);
void params_close(zero *z);
/* Ranks have no more than their parts of the span, but while it is used. */
static inline bool params_in_parts(const zero *z, const layout_span *span)
{
    return z->params.in_parts && !span->kept;
}
/* Where this rank keeps an element, which it has. */
bufref params_at(const zero *z, uint32_t param, uint64_t first);
/* What it keeps of a parameter: all, or of a span in parts its part. */
layout_piece params_kept(const zero *z, uint32_t param);
/* This rank's part of a span. */
uint64_t params_part_bytes(const zero *z, const layout_span *span);
bufref params_own_part(const zero *z, const layout_span *span);
/* A whole span; of one in parts while it has a place. */
bufref params_of_span(const zero *z, const layout_span *span);
/* At stage 1 and above callers may not write parameters: while sealed, zero may not either. */
zds_status params_seal(zero *z, bool sealed);     /* those that are trained */
zds_status params_seal_all(zero *z, bool sealed); /* frozen ones, too */

/* residency.c: spans in parts, whole while they are used. All ranks acquire the same modules in the
 * same order. */
zds_status residency_create(zero *z, zds_error *error);
void residency_destroy(zero *z);
/* A micro step begins; its backward is over. */
void residency_begin(zero *z);
void residency_end(zero *z);
/* The module's spans come, and stay until as many calls of zero_release. To be awaited
 * (publish_await). */
zds_status residency_acquire(zero *z, uint32_t module, int32_t pass);
/* What was gathered is no more what the owners have: of a span; all of it, or what is trained. */
zds_status residency_forget_span(zero *z, uint32_t span);
zds_status residency_forget(zero *z, bool all);
/* What is used next, as far as that is known, begins to come. */
zds_status residency_look_ahead(zero *z);

/* publish.c: all ranks come to have what the owners have written */
zds_status publish_create(zero *z, zds_error *error);
void publish_destroy(zero *z);
/* The owners begin to write: in a step, and all must be waited for before the next. */
zds_status publish_begin(zero *z);
/* One span alone, of one that nobody uses in this micro step any more. */
zds_status publish_begin_span(zero *z, uint32_t span);
/* This step writes so many tiles of the span; once it has, the span's part is told of, if that is
 * possible at once. From any thread that steps tiles. */
void publish_expect(zero *z, uint32_t span, uint32_t tiles);
void publish_wrote(zero *z, uint32_t span, uint32_t tiles);
/* A span is written; all is. */
zds_status publish_span(zero *z, uint32_t span);
zds_status publish_all(zero *z);
/* A span in parts is gathered into its place. */
zds_status publish_gather(zero *z, uint32_t span, const char *doing);
/* Waits until a span is there; or all of them. */
zds_status publish_await(zero *z, uint32_t span);
zds_status publish_await_all(zero *z);

/* quantised.c */
zds_status quantised_create(zero *z, zds_error *error);
void quantised_destroy(zero *z);
/* The span is gathered so: */
bool quantised_gathers(const zero *z, const layout_span *span);
/* this rank's part, which is at `own`, and all others' into its place, */
zds_status quantised_gather(zero *z, uint32_t span, bufref own, const char *doing);
/* where they are after this; nothing, unless it is on its way. */
zds_status quantised_await(zero *z, uint32_t span);
/* The span's gradients are reduced so, one span at a time: */
bool quantised_reduces(const zero *z, const layout_span *span);
/* from all of it on this rank, which may be written again at once, */
zds_status quantised_reduce(zero *z, uint32_t span, bufref from);
/* on their way until this, */
zds_status quantised_wait(zero *z, uint32_t span);
/* to the sum of this rank's part, scaled, which is added or put there. */
zds_status quantised_take(zero *z, uint32_t span, bufref to, bool add);

/* secondary.c */
zds_status secondary_create(zero *z, zds_error *error);
void secondary_destroy(zero *z);
/* The cell has the span: it is gathered from there into its place. */
bool secondary_has(const zero *z, uint32_t span);
zds_status secondary_gather(zero *z, uint32_t span, const char *doing, zds_event **event);
/* It was gathered from all ranks: this rank's share stays. */
zds_status secondary_keep(zero *z, uint32_t span);
/* Owners write. */
void secondary_forget(zero *z, uint32_t span);

/* grads.c, grads_memory.c */
zds_status grads_create(zero *z, zds_error *error);
void grads_destroy(zero *z);
/* Whether a rank's gradients are better kept in parts, and in which layout; see zero_create. */
zds_status grads_lay_out(zero *z, const layout_wish *wish, zds_error *error);
/* Where this rank's piece of a parameter, from `first`, has its gradient at the boundary. */
bufref grads_of_piece(const zero *z, const layout_piece *own);
/* Where a parameter's is that is kept whole. */
bufref grads_whole(const zero *z, uint32_t param);
/* Backward writes the span's into a buffer, not where it is added up. */
static inline bool grads_buffered(const zero *z, const layout_span *span)
{
    return z->grads.in_parts || zero_accum_dtype(z, span) != zero_dtype(z, span);
}
/* In which type a span's travel. */
zds_dtype grads_travel_dtype(const zero *z, bool in_parts, const layout_span *span);
/* They do so as a copy. */
bool grads_staged(const zero *z, bool in_parts, const layout_span *span);
/* Where backward writes the gradient. */
void *grads_pointer(zero *z, uint32_t param);
/* Memory of a span that is about to be written must not be in flight. ZDS_ERR_UNSUPPORTED, and
 * nothing has changed: the gradient of another module is being written there. */
zds_status grads_open(zero *z, uint32_t span);
/* What was begun last of a span is over: its gradient is reduced, and where the rank updates it. */
zds_status grads_await(zero *z, uint32_t span);
/* What zds_fused would have counted of `part`, into the host's memory. */
zds_status grads_sums(zero *z, bufref part, const zds_segment *segments, size_t count,
                      double *chunk_sums, uint64_t *non_finite);

/* norm.c: sums over whole tensors, of what `norms` left */
zds_status norm_create(zero *z, zds_error *error);
void norm_destroy(zero *z);
zds_status norm_sum_tensors(zero *z);
/* Which parameters of a span have a gradient anywhere: ranks begin to tell; all have. */
zds_status presence_share(zero *z, uint32_t span);
zds_status presence_await(zero *z, uint32_t span);

#endif
