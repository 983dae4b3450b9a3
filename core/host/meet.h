/* How ranks find each other: rank 0 listens, all others come; who is a stranger is sent away.
 * Everything that a socket says is checked before it is believed. */
#ifndef CORE_HOST_MEET_H
#define CORE_HOST_MEET_H

#include <sys/types.h>

#include "host/launch.h"

enum { MEET_VERSION = 2, MEET_PORTS = 8 }; /* how many ports from MASTER_PORT on are tried */
#define MEET_MAGIC 0x746f6f622d73647aULL   /* "zds-boot" */

/* Before each message of a gather, both ways. */
typedef struct meet_frame {
    uint64_t magic;
    uint32_t number; /* of the gather, from 1 on */
    int32_t status;  /* to others than rank 0: if not ZDS_OK, a text follows */
    uint64_t bytes;  /* that follow */
} meet_frame;

/* What a rank was told of who shares its machine. */
typedef struct meet_local {
    char host[LAUNCH_HOST]; /* launch_host_identity */
    int32_t rank, size;     /* both 0: nothing */
} meet_local;

typedef struct meeting {
    int32_t rank, size, timeout_ms;
    bool one_node;             /* all ranks are of this machine: by unix socket */
    bool anywhere;             /* not known: by either */
    meet_local local, *locals; /* this rank's; rank 0: [size] */
    char addr[256];            /* MASTER_ADDR, MASTER_PORT */
    int32_t port;
    char job[64]; /* what the launcher calls the job; "" */
    int *sockets; /* rank 0: [size], connected to each; others: [1], to rank 0; -1 */
    pid_t *pids;  /* rank 0: [size], else [1]; 0: not known */
    void *claim;  /* of rank 0, on the name of the meeting point */
} meeting;

int64_t meet_now(void); /* ms */
/* Connects all ranks; on failure those who have come are told. What they were told of their
 * machines must be possible. */
zds_status meet_all(meeting *m, int64_t until, zds_error *error);
/* A message of failure, to whoever listens at `fd`. */
void meet_refuse(int fd, uint32_t number, zds_status status, const char *text);
void meet_part(meeting *m);    /* ends the connections */
void meet_release(meeting *m); /* gives the name back */

/* meet_tcp.c. The listener, or -1 with *error set. */
int meet_tcp_listen(const meeting *m, zds_error *error);
int meet_tcp_connect(const meeting *m, int64_t until, zds_error *error);
void meet_tcp_watch(int fd); /* a peer whose machine is gone shows within seconds */

/* The first message of rank 0 to whoever connects: others than zds see nothing of ours. */
typedef struct meet_greeting {
    uint64_t magic;
    uint32_t version;
    int32_t world_size;
    char job[64];
} meet_greeting;
bool meet_is_ours(const meeting *m, const meet_greeting *g);

#endif
