/* The optimizer's pass: pieces, tiles and windows, what of them rests in another memory, and what
 * is updated beside backward. Part of parts.h, for the files of this folder alone. */
#ifndef CORE_ZERO_STREAM_H
#define CORE_ZERO_STREAM_H

#include <stdatomic.h>

#include "memory/bufref.h"
#include "zero/peers.h"
#include "zero/zero.h"

enum { WINDOW_TILES = 64 }; /* at most */

/* What a part holds of one parameter. */
typedef struct piece {
    uint32_t param;
    uint64_t first, count; /* elements of the parameter */
    zds_dtype dtype;       /* of the parameter */
    bufref master, grad, output;
    bufref states[ZDS_MAX_STATES];
    uint64_t chunk_at; /* its sums of chunks in stream_part.norms: [tensor_norms][chunks] */
    size_t chunks;
    /* Windows of this step that hold tiles of it, from `window` up to `window_end`; the first may
     * begin with tiles of pieces before it, and the last end with tiles of those behind. */
    uint64_t window, window_end;
    bool away;       /* its parameter rests in another memory, to which outputs go */
    bool rests;      /* its master and states are records in another memory, */
    uint64_t record; /* from here on: one a tile, */
    uint64_t sum;    /* whose checksums begin here */
} piece;

/* The tiles that are bound and stepped together. */
typedef struct window {
    zds_tile tiles[WINDOW_TILES];
    void *states[WINDOW_TILES][ZDS_MAX_STATES];
    const piece *pieces[WINDOW_TILES];
    /* Bytes of the ring's buffers: of records of pieces that rest elsewhere, and of outputs of
     * those whose parameters do. */
    uint64_t at[WINDOW_TILES], out_at[WINDOW_TILES];
    size_t count;
} window;

enum { LOAD_WINDOWS = 16 }; /* that threads share */

/* Copies under way, and whose. */
typedef struct moves {
    zds_event **events; /* [count] */
    tier **tiers;       /* [count] */
    size_t count;
} moves;

/* A buffer of records, and what is under way to and from it. */
typedef struct record_slot {
    uint32_t windows; /* of the load that it has */
    /* [windows]: bytes of their records in it, and of outputs behind them; and of all records. */
    uint64_t at[LOAD_WINDOWS], out_at[LOAD_WINDOWS];
    uint64_t bytes, out_bytes;
    uint64_t load; /* which it is */
    bool fresh;    /* without records */
    /* It has gone on from the device, and its way to files is not begun; once that event is over.
     */
    bool stopped;
    zds_event *left;
    /* What is read, what is written, and what was written before and the reading waits for; on a
     * device one event each. */
    moves reads, writes, waited;
} record_slot;

/* Buffers of loads of which something rests in another memory, taken in turn. */
typedef struct record_ring {
    slab records; /* in the other memory */
    /* [slot_count] where the optimizer computes, from byte `first` on: `bytes` of records each, and
     * out_bytes of outputs. */
    slab buffers;
    uint64_t first, bytes, out_bytes, alignment, out_alignment;
    /* On a device the same once more in the host's memory, for records in files, outputs to files,
     * or both. */
    slab stops;
    uint64_t stop_first;
    bool outputs_stop;
    uint32_t load; /* windows of one; 0: there are none */
    uint32_t slot_count;
    record_slot *slots;
    zds_stream *reads, *writes; /* of a device */
    uint64_t count, *sums; /* [count] records' checksums, where the host sees them; else NULL */
    /* The record that is in the first buffer for itself; STREAM_NONE. */
    uint64_t open, open_bytes, open_sum;
} record_ring;

typedef struct stream_part {
    piece *pieces; /* [piece_count] in the order of spans */
    uint32_t piece_count;
    piece **piece_of; /* [params]: what this rank updates of it; NULL: nothing */
    slab master;      /* of spans whose parameters are not their own masters */
    slab states;      /* SHARDED ones of all pieces */
    peer_slab whole;  /* states that no part cuts: TENSOR, GLOBAL and RANK_LOCAL ones */
    /* [params][ZDS_MAX_STATES]: their bytes in it; STREAM_NONE: no such state */
    uint64_t *whole_at;
    void **whole_states;   /* likewise: their addresses */
    zds_tile *whole_tiles; /* [whole_count] of this step: of parameters that are updated whole */
    void *(*whole_tile_states)[ZDS_MAX_STATES];
    uint32_t whole_count;
    /* Doubles: sums over whole tensors, [norm_count], all parameters' one after another; then sums
     * of chunks, piece by piece. */
    slab norms;
    double *sums; /* the same in the host's memory */
    uint64_t norm_doubles;
    uint64_t *sums_at; /* [params] */
    uint64_t norm_count;
    peer_slab shares;         /* of the sums, on their way between ranks */
    zds_param_step *steps;    /* [params]: what calls over whole parameters get, of */
    zds_param_steps listed;   /* those that are trained */
    void **collective_states; /* [params][ZDS_MAX_STATES]: as step_collective gets them */
    slab scratches;
    void **scratch; /* [threads]: places in it */
    record_ring ring;
    bool replaced;       /* states are not what they start as: set, or left by a step */
    bool own_states_cut; /* RANK_LOCAL states were last written by tiles, each rank in its parts */
} stream_part;

typedef struct stream_pass {
    zero *z;
    zds_step_ctx ctx; /* but for scratch, which is a thread's */
    zds_status (*function)(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx);
    bool writes;      /* parameters; states any may */
    bool copies;      /* and leaves copies in fp32 to the host */
    uint64_t windows; /* of it, */
    uint64_t at;      /* of which those before this one are stepped, */
    uint64_t read;    /* and so many loads of records read or on their way */
    _Atomic int32_t status;
    _Atomic int64_t spoilt; /* a parameter whose records are not what was left, or -1 */
} stream_pass;

/* === overlap === */

typedef struct overlap_part {
    bool on;           /* in this micro step spans are updated once they are reduced: */
    uint32_t next;     /* those from here on are */
    stream_pass pass;  /* over their windows, */
    zds_stream *queue; /* where a device works for it beside its other queue */
} overlap_part;

#define STREAM_NONE UINT64_MAX

/* === what each file does === */

/* stream_memory.c: pieces, masters, states */
zds_status stream_create(zero *z, zds_error *error);
void stream_destroy(zero *z);
/* Where gradients are now. */
void stream_refer(zero *z);
/* A state that no part cuts; no slab: there is none. */
bufref stream_whole_state(const zero *z, uint32_t param, uint32_t state);
/* A parameter's state; -1: the trained value, as if it were one. */
zds_state_spec stream_spec(const zero *z, uint32_t param, int32_t state);
/* Bytes of an ELEMENT or BLOCK state of `count` elements from a block's first; 0 for other kinds.
 */
uint64_t state_bytes(const zds_state_spec *spec, uint64_t count);
/* Bytes from the state of an element to that of the one `elements` further on. */
uint64_t state_offset(const zds_state_spec *spec, uint64_t elements);
/* Elements of a full tile of a parameter: whole chunks of the norm and whole blocks, and what a
 * file aligns; or all. */
uint64_t stream_tile(const zero *z, uint32_t param);
/* records.c: masters and states that rest in another memory than where the optimizer computes.
 * Where state s of `count` elements begins in their record; ZDS_MAX_STATES: where the record ends.
 * The master is at its beginning. */
uint64_t records_place(const zero *z, const piece *p, uint64_t count, uint32_t s);
uint64_t records_tile_bytes(const zero *z, const piece *p, uint64_t count);
/* Bytes of a tile's output, as far as its copy goes. */
uint64_t records_output_bytes(const zero *z, const piece *p, uint64_t count);
zds_status records_create(zero *z, zds_error *error);
void records_destroy(zero *z);
/* What holds byte *at of a piece's master (state -1) or state, and from which byte of that on, with
 * at most *bytes lying together. Where the host sees it the record itself comes, and goes back by
 * records_keep. */
zds_status record_of(zero *z, const piece *p, int32_t state, uint64_t *at, uint64_t *bytes,
                     bufref *out);
zds_status records_keep(zero *z);
zds_status records_spoilt(zero *z, uint32_t param); /* it is not what was left there */
/* loads.c. Begins a pass over windows: what was written before is there. */
zds_status records_begin(zero *z);
/* A pass goes over loads of windows, in order: so many, */
uint64_t records_loads(const zero *z, uint64_t windows);
/* and of one that is read, so many windows. */
uint32_t records_windows(const zero *z, uint64_t load);
/* A load's records begin to come into its buffer, at most as many loads ahead as there are others;
 * `fresh`: a buffer, on a device of zeros, in place of records. */
zds_status records_read(zero *z, uint64_t load, uint64_t windows, bool fresh);
/* They are there, for what is put on the queue. */
zds_status records_await(zero *z, uint64_t load);
/* A window of it, whose tiles point into the buffer. */
void records_bind(const zero *z, uint64_t load, uint32_t j, window *w);
/* On the host: zeros; the checksums of what a step has left; a parameter whose records are not what
 * was left, or -1, which is then an error. */
void records_clear(const zero *z, const window *w);
void records_seal(const zero *z, const window *w);
int64_t records_check(const zero *z, const window *w);
/* And go back, after what was put on the queue. */
zds_status records_write(zero *z, uint64_t load);
/* The pass is over: the next one may number windows anew. */
zds_status records_end(zero *z);
/* All of them are there. */
zds_status records_settle(zero *z);
/* stream.c: numbers the windows of a pass; `takes`: which pieces have tiles in it. Returns how many
 * windows there are. */
typedef bool (*pass_takes)(const zero *z, uint32_t param);
uint64_t stream_number(zero *z, pass_takes takes);
bool stream_takes_cut(const zero *z, uint32_t param); /* all but those that are updated whole */
/* The tiles of a window, as the pass numbers them. */
void stream_bind_window(const zero *z, uint64_t i, window *w);
/* Where a tile's output goes first. */
bufref stream_output_at(const zero *z, const window *w, size_t i);
/* What a step is told, but for a thread's scratch. */
zds_step_ctx stream_ctx(const zero *z, int64_t step, double grad_scale);
/* A pass, of which `function` and `writes` are set, begins; goes on to window `end`; is over but
 * for what is updated whole. */
zds_status stream_open(zero *z, stream_pass *p, const zds_step_ctx *ctx, pass_takes takes);
zds_status stream_advance(stream_pass *p, uint64_t end);
zds_status stream_end(stream_pass *p);
/* The tiles that are to come of a piece, before its span is told of. */
void stream_expect(zero *z, const piece *p);
/* after the optimizer's failure in the middle of an update */
zds_status stream_failed(zero *z, zds_status status, const char *what, int64_t step);
/* stream_params.c: calls over whole parameters, begin_step first in every step; each does nothing
 * where the optimizer has no such function */
void stream_list(zero *z);
zds_status stream_begin_step(zero *z, const zds_step_ctx *ctx);
zds_status stream_sums_ready(zero *z, const zds_step_ctx *ctx);
zds_status stream_collective(zero *z, const zds_step_ctx *ctx);
/* RANK_LOCAL states that steps by tiles wrote in parts become whole on every rank. */
zds_status stream_gather_own(zero *z);

/* overlap.c */
zds_status overlap_create(zero *z, zds_error *error);
void overlap_destroy(zero *z);
/* All spans from `span` on, which are reduced or being so, are updated. On all ranks alike. */
zds_status overlap_advance(zero *z, uint32_t span);
/* All are, and what is updated whole. */
zds_status overlap_end(zero *z);

#endif
