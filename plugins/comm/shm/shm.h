/* Ranks of one node over shared memory: the data that all files of this plugin work on.
 *
 * One sparse memfd, the arena, holds everything that ranks share: the job's header, a control block
 * for each communicator, and all regions. Rank 0 makes it and hands it out over a unix socket, so
 * it has no name anywhere and goes with its last process. Ranges of it are given out by a counter
 * and never again, and freed by punching holes.
 *
 * Each rank posts its operations, in order, in a ring of its own slot: what it is, and where its
 * source lies. A source in a region is read by peers where it is; a small one is carried in the
 * ring; any other is pushed through a pipe to each reader. No rank writes into a slot of another,
 * but for the word that wakes it. Counters only grow, each with one writer. */
#ifndef PLUGINS_COMM_SHM_SHM_H
#define PLUGINS_COMM_SHM_SHM_H

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>

#include "common/coll.h"

enum {
    MAX_RANKS = 1024,
    RING = 32, /* operations that a rank may be ahead of the slowest */
    WHAT_BYTES = 64,
    INLINE_BYTES = 192,  /* sources up to this size travel in the ring */
    PIPE_SLOTS = 4,      /* pieces in a pipe */
    PIPE_BYTES = 1 << 16 /* a piece; a multiple of every element's size */
};

/* === what ranks share === */

enum {
    OP_BARRIER = 1,
    OP_ALL_REDUCE,
    OP_REDUCE,
    OP_REDUCE_SCATTER,
    OP_ALL_GATHER,
    OP_BROADCAST,
    OP_ALL_TO_ALL,
    OP_SEND,
    OP_RECV,
    OP_AGREE /* internal, for memory and split: an all_gather of bytes in the ring */
};

/* Where the bytes of a buffer are for its readers. */
enum { AT_NOWHERE = 0, AT_ARENA, AT_INLINE, AT_PIPE };
typedef struct place {
    int32_t how;
    int32_t reserved;
    uint64_t offset; /* into the arena */
} place;

/* One operation as a rank issued it. */
typedef struct post {
    uint64_t seq, tag, count;
    int32_t kind, reduction, peer, fused;
    zds_dtype src_dtype, dst_dtype;
    place src, dst;
    char what[WHAT_BYTES]; /* the beginning of zds_coll's */
    unsigned char data[INLINE_BYTES];
} post;

/* What one rank shows to the others of its communicator. */
typedef struct slot {
    alignas(64) _Atomic uint64_t posted; /* operations whose entry in `ring` is written */
    _Atomic uint64_t half;               /* operations whose first phase is over */
    _Atomic uint64_t read;               /* operations that need no peer's memory any more */
    _Atomic uint64_t done;               /* operations that are complete */
    _Atomic uint32_t left;               /* it said good-bye */
    alignas(64) _Atomic uint32_t wake;   /* futex: counts what peers have changed */
    _Atomic uint32_t sleeping;
    _Atomic uint32_t waits; /* its program waits for an operation or a count */
    alignas(64) post ring[RING];
} slot;

/* One writer, one reader: pieces [drained, filled) are there. */
typedef struct pipe_ends {
    alignas(64) _Atomic uint64_t filled;
    alignas(64) _Atomic uint64_t drained;
} pipe_ends;

/* send and recv from one rank to one other. */
typedef struct channel {
    alignas(64) _Atomic uint64_t sent;
    alignas(64) _Atomic uint64_t received;
    post entry; /* of message number `sent` */
} channel;

enum { RECORD_NONE = 0, RECORD_WRITING = 1, RECORD_SET = 2 };

/* At the arena's beginning. */
typedef struct job_header {
    uint64_t magic;
    uint32_t version, world_size;
    _Atomic uint64_t next; /* first byte not given out */
    uint64_t control;      /* of the world's communicator */
    /* The first failure of any rank: what all others report. */
    _Atomic uint32_t record;
    int32_t record_status, record_rank;
    char record_text[400];
    int32_t pid[MAX_RANKS];           /* 0: not visible from rank 0's pid namespace */
    _Atomic uint32_t gone[MAX_RANKS]; /* it left in good order: its end is no failure */
} job_header;

/* At the beginning of a communicator's control block; slots, pipe ends, channels, and the pipes'
 * data follow. */
typedef struct control_header {
    alignas(64) _Atomic uint32_t left; /* ranks that are through with it */
} control_header;

/* === one rank's side === */

typedef struct mapping {
    char *base;
    uint64_t bytes;
} mapping;

typedef struct shm_options {
    int64_t spins; /* rounds of a wait before it sleeps; INT64_MIN: as seems best */
    bool huge_pages;
} shm_options;

/* What all communicators of a rank stand on. */
typedef struct job {
    const zds_host *host;
    int fd; /* of the arena */
    uint64_t arena_bytes;
    job_header *header;
    int32_t rank, size;
    int32_t timeout_ms; /* of silence, */
    int32_t join_ms;    /* of waiting for all to come, */
    int32_t warn_ms;    /* and of silence between two warnings */
    int32_t spins;      /* rounds of a wait before it sleeps */
    bool huge_pages;
    _Atomic int32_t references; /* communicators */
    pthread_mutex_t lock;       /* of `regions`: communicators may have threads of their own */
    int *sockets;               /* [size]: rank 0's to all, all others' to rank 0; -1 */
    int *pidfds;                /* [size]: -1 where there is none */
    struct region *regions;
} job;

/* A range of the arena from mem_alloc, mapped; or the peers' registered memory, mapped as if it
 * were one. */
typedef struct region {
    struct region *next;
    uint64_t control; /* of the communicator whose ranks have it mapped */
    uint64_t offset, bytes;
    uint64_t part;                  /* bytes from one rank's part to the next one's */
    uint64_t own_offset, own_bytes; /* what this rank may write */
    bool lent;                      /* registered: the arena's range has no pages */
    /* In the last page of what goes with its last rank (SHARED, COUNTERS): who gave it back. */
    _Atomic uint32_t *freed;
    char *base; /* of all ranks' parts */
    char *own;  /* own part (or SHARED bytes) */
    char *view; /* the same without the right to write; NULL where lent */
} region;

typedef struct comm comm;

/* An operation in flight; `event` is the caller's until released. */
typedef struct op {
    zds_event event;
    comm *comm;
    struct op *next;
    zds_coll coll;
    zds_fused fused;
    int32_t kind;
    uint64_t seq;
    uint64_t piece; /* of a message: pieces moved */
    bool posted, worked, done, released;
} op;

typedef struct queue {
    op *first, *last;
} queue;

struct comm {
    const zds_host *host;
    job *job;
    int32_t rank, size;
    int32_t *world_rank; /* [size] */
    uint64_t control;    /* offset of the control block */
    mapping block;
    slot *slots;       /* [size] */
    pipe_ends *pipes;  /* [size][size]: from, to */
    channel *channels; /* [size][size] */
    pipe_ends *message_pipes;
    char *pipe_data;    /* [size][size][PIPE_SLOTS][PIPE_BYTES] */
    char *message_data; /* likewise */
    queue ops;          /* issued, not done, in order */
    op *to_post, *to_work;
    queue messages; /* send and recv */
    uint64_t issued;
    op *spare;
    /* of the operation at to_work */
    int32_t phase;        /* -1: not begun */
    uint64_t *fed;        /* [size]: pieces pushed to each rank in this phase */
    uint64_t *got;        /* [size]: pieces (or all, as 1) taken from each rank in this phase */
    const void **sources; /* [size] */
    /* waiting */
    bool inside;                                /* progress is running: no recursion */
    int64_t last_try, last_advance, last_check; /* ms */
    int64_t warned;                             /* ms of silence at the last warning */
    zds_status status;                          /* of the failure that ended this communicator */
    char text[640];
};

/* arena.c: mapping parts of the arena */
zds_status arena_create(const zds_host *host, int *fd, uint64_t *bytes);
void *arena_map(const job *j, uint64_t offset, uint64_t bytes, bool writable);
void arena_unmap(const job *j, void *base, uint64_t bytes);
void arena_protect(const job *j, void *base, uint64_t bytes); /* makes it writable */
void arena_punch(const job *j, uint64_t offset, uint64_t bytes);
/* Offset of a fresh range, a multiple of 4096 (of 2 MiB for large ones); 0 if there is none left.
 */
uint64_t arena_take(job *j, uint64_t bytes);

/* join.c: all ranks find each other. Fills j->fd, header, sockets. */
zds_status join_world(job *j, const zds_comm_env *env);
void join_complete(job *j); /* all are there: refuses whoever comes later */
void join_close(job *j);

/* health.c: sleeping, and noticing that nobody will wake us */
int64_t now_ms(void);
void wake_rank(comm *c, int32_t r);
void wake_all(comm *c);
/* Watches the processes of the other ranks. */
void health_open(job *j);
void health_close(job *j);
/* Looks for a reason to give up; `waiting`: the operation that the caller needs. */
void health_check(comm *c, const op *waiting);
/* Ranks that live have been silent for so many ms: a warning now and then, and in the end too long.
 */
void health_bear(comm *c, int64_t silent, const char *ranks, const char *what);
/* Of the ranks [size] that are behind, "1, 3": those that the others of them wait for as well.
 * `seq`: the operation that is waited for, UINT64_MAX where it is none of the ring. */
void health_list_behind(const comm *c, bool *behind, uint64_t seq, char *text, size_t size);
/* The world rank of a process that ended without finalize, or -1. From any thread. */
int32_t health_find_dead(const comm *c);
/* Takes over what another rank has recorded; false if there is nothing. */
bool health_adopt(comm *c);
bool health_has_left(const comm *c, int32_t r);
void sleep_until_woken(comm *c, uint32_t seen, int32_t ms);
/* Ends the communicator with an error text and tells the peers. Returns the status. */
zds_status comm_fail(comm *c, zds_status status, const char *format, ...) ZDS_PRINTF(3, 4);
zds_status comm_error(const comm *c); /* the error again, for the call in progress */
void record_failure(job *j, zds_status status, const char *text);

/* comm.c: communicators */
uint64_t control_bytes(int32_t size);
zds_status comm_create(job *j, uint64_t control, int32_t rank, int32_t size,
                       const int32_t *world_rank, comm **out);
void comm_destroy(comm *c);
void job_drop(job *j); /* gives up one reference; the last closes the job */
zds_status comm_split(void *self, int32_t color, int32_t key, void **child);

/* regions.c: memory that peers can read */
zds_status comm_mem_alloc(void *self, uint64_t bytes, int32_t kind, zds_region *out);
void comm_mem_free(void *self, zds_region *out);
zds_status comm_mem_register(void *self, void *base, uint64_t bytes, zds_device device,
                             zds_region *out);
void comm_mem_unregister(void *self, zds_region *out);
void region_unmap(const job *j, region *g);
/* Where `bytes` at `pointer` are, if the ranks of `c` can read them there. */
bool region_find(const comm *c, const void *pointer, uint64_t bytes, uint64_t *offset);
/* This rank's address of peers' bytes; NULL if they lie in no region. */
const char *region_at(const comm *c, uint64_t offset, uint64_t bytes);

/* counter.c: what ranks count together. Each adds to a word of its own; a counter is their sum. */
zds_status comm_counter_add(void *self, const zds_region *counters, uint64_t index);
zds_status comm_counter_wait(void *self, const zds_region *counters, uint64_t index, uint64_t value,
                             const char *what, zds_event **done);

/* work.c: the data movement of collectives */
const char *op_name(int32_t kind);
/* "all_reduce (gradients of module h.0)": for messages; in `text`. */
const char *op_text(const op *o, char *text, size_t size);
/* Moves c->to_work forward. True if anything happened; sets op->worked at its end. */
bool work_step(comm *c);
/* Compares a peer's entry with this rank's operation; false (and comm_fail) if they differ. */
bool work_agrees(comm *c, const op *o, int32_t r, const post *theirs);
bool work_small(const op *o); /* all_reduce through the ring alone */
uint64_t work_source_bytes(const op *o, int32_t size);
/* The entry of rank r for operation `seq`. */
static inline post *entry_of(const comm *c, int32_t r, uint64_t seq)
{
    return &c->slots[r].ring[seq % RING];
}
/* True if rank `r` reads this rank's source of the operation. */
bool work_is_reader(const comm *c, const op *o, int32_t r);
/* True if this rank needs rank r's entry before or while it works. */
bool work_needs(const comm *c, const op *o, int32_t r);

/* message.c: send and recv */
/* Moves one forward; true if anything happened. The first of its kind and peer alone. */
bool message_step(comm *c, op *o);

/* ops.c: issuing, progress, events */
zds_status issue(comm *c, int32_t kind, const zds_coll *coll, zds_event **done);
/* Fills in where a buffer is for peers; `inside`: room in the ring entry that may carry it. */
place place_of(const comm *c, const void *pointer, uint64_t bytes, unsigned char *inside);
/* Everything of all ranks' `bytes` (at most INLINE_BYTES) in rank order: all[size][bytes]. `what`:
 * the call that needs it. */
zds_status agree(comm *c, const char *what, const void *mine, uint64_t bytes, void *all);
bool progress(comm *c);
/* Spins for a moment, then sleeps until a peer has news or `over` says that there is no need. */
void rest(comm *c, bool (*over)(const void *arg), const void *arg);

#endif
