/* The ranks as the core reaches them: operations of a comm plugin and waiting for them, memory that
 * peers read, exchanges of a few numbers; and what moves operations while nobody waits for them.
 *
 * The plugin's calls come from one thread at a time, by a lock: those of the engine's own thread,
 * which may wait for it, and `progress`, which a tick or a thread of its own calls between them. */
#ifndef CORE_ZERO_PEERS_H
#define CORE_ZERO_PEERS_H

#include <pthread.h>
#include <stdatomic.h>

#include "host/error.h"
#include "memory/bufref.h"

enum { PEERS_DOUBLES = 64 }; /* what peers_gather takes of each rank at most */

/* Memory that peers read, or that is this rank's own in a place where peers' could be. */
typedef struct peer_slab {
    slab slab;
    slab memory;           /* of the tier, where `slab` is a view of it */
    const void *read_only; /* the same bytes without the right to write, where that is possible */
    zds_region region;     /* of the comm plugin; its base is NULL: the tier gave the bytes */
    const char *purpose;   /* of the region, as the ledger has it */
    uint64_t bytes, shared;
    bool counted;    /* there */
    bool registered; /* `region` is the plugin's view of `slab` */
} peer_slab;

typedef struct peers {
    const zds_comm_ops *ops;
    void *self;
    services *services;
    failure *failure; /* gets the texts */
    tier *tier;       /* where operations find their buffers */
    int32_t rank, world_size;
    bool one_node;                /* all ranks are on this one, */
    int32_t node_rank, node_size; /* or so many, of which it is this one */
    struct peers *other; /* the same ranks, connected for another memory; NULL: there is none */
    peer_slab control;   /* of peers_gather */
    pthread_mutex_t lock;
    atomic_uint in_flight; /* operations that were issued and not waited for */
    /* With the lock: what progress said while nobody asked, for the next call. */
    zds_status late;
    char *late_text;
    int64_t moved_ns, issued_ns; /* when progress was called last, and an operation issued */
    pthread_cond_t news;         /* for the thread */
    pthread_t mover;
    bool has_mover, stop;
} peers;

/* What is filled in up to `one_node` becomes usable. Nothing but zeros may be destroyed, too. */
void peers_init(peers *p);
void peers_destroy(peers *p);
/* Takes what peers_gather needs. Collective. */
zds_status peers_open(peers *p, zds_error *error);
void peers_close(peers *p);

/* Zeroed memory of the comm plugin, entered in the ledger. `kind`: ZDS_MEM_SYMMETRIC, or
 * ZDS_MEM_SHARED with a plugin that has it. At least 64 bytes. Collective. */
zds_status peers_alloc(peers *p, peer_slab *s, const char *purpose, uint64_t bytes, int32_t kind,
                       zds_error *error);
void peers_free(peers *p, peer_slab *s);

/* Counters that all ranks add to, with a plugin that has ZDS_MEM_COUNTERS. Collective. */
typedef struct peer_counters {
    zds_region region;
    bool there;
} peer_counters;
zds_status peers_counters_open(peers *p, peer_counters *c, uint64_t count, zds_error *error);
void peers_counters_close(peers *p, peer_counters *c);
/* Adds 1, after all that this thread has written. */
zds_status peers_count(peers *p, const peer_counters *c, uint64_t index, const char *doing);
/* Likewise from a body of the pool, which may not wait for another thread's call: false where there
 * is one, or it fails, which the next call tells. */
bool peers_try_count(peers *p, const peer_counters *c, uint64_t index);
/* Waits until it is `value`, whatever the others do otherwise. */
zds_status peers_count_wait(peers *p, const peer_counters *c, uint64_t index, uint64_t value,
                            const char *doing);

typedef zds_status (*peers_operation)(void *self, const zds_coll *coll, zds_event **event);

/* Begins an operation. `doing`: what it is for; a status that is not 0 has its text, and nothing
 * may follow. */
zds_status peers_issue(peers *p, peers_operation operation, const zds_coll *coll, const char *doing,
                       zds_event **event);
/* Waits for an event and releases it; *event becomes NULL. */
zds_status peers_wait(peers *p, zds_event **event, const char *doing);
/* Releases an event that nobody waits for any more. */
void peers_drop(peers *p, zds_event **event);
/* Begins it, and waits for it. */
zds_status peers_call(peers *p, peers_operation operation, const zds_coll *coll, const char *doing);

/* Between the two the caller calls the plugin itself, and says of each event that it keeps. */
zds_status peers_enter(peers *p, const char *doing);
void peers_keep(peers *p, const zds_event *event);
/* `status`: of what it called. */
zds_status peers_leave(peers *p, zds_status status, const char *doing);

/* Moves what is in flight forward. */
zds_status peers_progress(peers *p);

/* Some of the ranks, in the order of all: those with the same color. */
typedef struct peer_cell {
    void *self; /* NULL: there is none */
    int32_t rank, size;
} peer_cell;
/* Collective. `rank` of `size`: what this rank is in it, as the colors say. */
zds_status peers_cell_open(peers *p, peer_cell *c, int32_t color, int32_t rank, int32_t size,
                           zds_error *error);
void peers_cell_close(peers *p, peer_cell *c);
/* As peers_issue, among the ranks of a cell. Where operations have to be moved it is over when the
 * call returns: meanwhile those of all ranks are moved, which others may wait for. */
zds_status peers_issue_in(peers *p, const peer_cell *c, peers_operation operation,
                          const zds_coll *coll, const char *doing, zds_event **event);

/* === moving without being asked (peers_move.c) === */

/* What is in flight moves, whatever this rank does meanwhile. */
static inline bool peers_move_alone(const peers *p)
{
    return p->has_mover || p->ops->flags & ZDS_COMM_AUTO_PROGRESS;
}
/* Nothing moves by itself, but by progress. */
static inline bool peers_need_moving(const peers *p)
{
    return p->world_size > 1 && p->ops->progress && !(p->ops->flags & ZDS_COMM_AUTO_PROGRESS);
}
/* From any thread, not in a call of the plugin's: moves what is in flight, if nobody else is at it
 * and it was not done just before. What fails is told by the next call. */
void peers_tick(peers *p);
/* A thread that does so from now on, and sleeps while nothing is in flight. */
zds_status peers_move(peers *p, zds_error *error);
/* Ends it; before the plugin's finalize. */
void peers_rest(peers *p);
/* With the lock: keeps what failed for the next call. */
void peers_fail_late(peers *p, zds_status status);
int64_t peers_now_ns(void);

/* === all together === */

/* After a failure with its text set: the others are told that this rank cannot go on, on whichever
 * connection they wait. An operation that fails does so by itself. Returns status. */
zds_status peers_give_up(peers *p, zds_status status);

/* Every rank's `bytes`, at most PEERS_DOUBLES doubles: *all is [world_size][bytes] until the next
 * call. */
zds_status peers_gather(peers *p, const void *mine, size_t bytes, const void **all,
                        const char *doing);
/* Rank 0's status, so that all ranks fail alike. */
zds_status peers_agree(peers *p, zds_status mine, const char *doing);

#endif
