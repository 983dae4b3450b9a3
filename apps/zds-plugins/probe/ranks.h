/* Ranks of a communication backend under check, each in a process of its own. */
#ifndef ZDS_PLUGIN_PROBE_RANKS_H
#define ZDS_PLUGIN_PROBE_RANKS_H

#include <stdatomic.h>

#include "bench.h"

enum { RANKS_MOST = 3, RANKS_MEETINGS = 64, RANKS_TIMEOUT_MS = 8000 };

/* What all ranks see. */
typedef struct board {
    atomic_int met[RANKS_MEETINGS];
    atomic_int count;          /* a check's own */
    uint64_t hash[RANKS_MOST]; /* likewise */
    atomic_int faults;         /* how many ranks have told one */
    struct {
        int32_t how;
        int32_t order; /* of its fault among them, from 0 on */
        char text[512];
    } ranks[RANKS_MOST];
} board;

/* One rank. */
typedef struct peer {
    bench *b;
    zds_comm_ops ops;
    zds_comm_env env;
    void *options, *self;
    int32_t rank, size;
    int meetings;
    uint64_t tag;
    board *board;
    zds_region counters; /* of a check that waits at them */
    zds_region room;     /* of one that exchanges something */
} peer;

typedef zds_status (*collective)(void *self, const zds_coll *coll, zds_event **done);
typedef char *(*peer_body)(peer *p);

/* Runs body on each of `size` ranks that have come through init, and finalizes. Returns the fault
 * of the first rank that has one. */
char *ranks_run(bench *b, int32_t size, int32_t timeout_ms, peer_body body);
/* Rank 0 alone of `size`, without init and finalize. */
char *ranks_first(bench *b, int32_t size, int32_t timeout_ms, peer_body body);
/* ranks_run for 2 ranks and for 3, as far as the plugin is for them; sets b->skipped where it is
 * for neither. */
char *ranks_worlds(bench *b, peer_body body);
/* For a new world: a port that nobody has now, at ranks_address(). */
int32_t ranks_port(void);
/* One of this machine's own, which no other check that runs now has. */
const char *ranks_address(void);
/* Why such a world cannot be made, as a fault for b->skipped; NULL if it can. */
char *ranks_refused(bench *b, int32_t size);

/* Waits for all ranks, by no means of the plugin. */
void peer_meet(peer *p);
/* From here on the rank's process may end as it likes. */
void peer_leaves(peer *p);

zds_status peer_init(peer *p);
/* Moves operations forward, where the plugin needs that. */
zds_status peer_push(peer *p);
/* An operation to its end. `dtype` is that of src and dst. The status is what failed of issuing and
 * waiting; the text is in p->b->error. */
zds_status peer_call(peer *p, collective function, const zds_coll *coll);
/* The same as a fault, which says `what`. */
char *peer_do(peer *p, const char *what, collective function, const zds_coll *coll);
zds_coll peer_coll(peer *p, const void *src, void *dst, uint64_t count, zds_dtype dtype);

/* The checks, for the table in comm.c. */
char *ranks_reductions(bench *b);
char *ranks_moves(bench *b);
char *ranks_fused(bench *b);
char *ranks_unpushed(bench *b);
char *ranks_memory(bench *b);
char *ranks_counters(bench *b);
char *ranks_split(bench *b);
char *ranks_death(bench *b);
char *ranks_silence(bench *b);
char *ranks_abort(bench *b);

#endif
