/* The ranks as the core reaches them: waiting for what a comm plugin began, memory that peers read,
 * and exchanges of a few numbers. */
#ifndef CORE_ZERO_PEERS_H
#define CORE_ZERO_PEERS_H

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
    bool one_node;     /* all ranks are on this one */
    peer_slab control; /* of peers_gather */
} peers;

/* Takes what peers_gather needs. Collective. */
zds_status peers_open(peers *p, zds_error *error);
void peers_close(peers *p);

/* Zeroed memory of the comm plugin, entered in the ledger. `kind`: ZDS_MEM_SYMMETRIC, or
 * ZDS_MEM_SHARED with a plugin that has it. At least 64 bytes. Collective. */
zds_status peers_alloc(peers *p, peer_slab *s, const char *purpose, uint64_t bytes, int32_t kind,
                       zds_error *error);
void peers_free(peers *p, peer_slab *s);

/* The status of a call of the plugin that failed, with its text; nothing may follow. `doing`: what
 * the call was for. */
zds_status peers_failed(peers *p, zds_status status, const char *doing);
/* Waits for an event and releases it; *event becomes NULL. */
zds_status peers_wait(peers *p, zds_event **event, const char *doing);
/* A call of the plugin, and the wait for it. */
zds_status peers_call(peers *p, zds_status (*operation)(void *, const zds_coll *, zds_event **),
                      const zds_coll *coll, const char *doing);
/* Moves what is in flight forward. */
zds_status peers_progress(peers *p);
/* Tells the others that this rank cannot go on, with its failure's text. Returns status. */
zds_status peers_give_up(peers *p, zds_status status);

/* Every rank's `bytes`, at most PEERS_DOUBLES doubles: *all is [world_size][bytes] until the next
 * call. */
zds_status peers_gather(peers *p, const void *mine, size_t bytes, const void **all,
                        const char *doing);
/* Rank 0's status, so that all ranks fail alike. */
zds_status peers_agree(peers *p, zds_status mine, const char *doing);

#endif
