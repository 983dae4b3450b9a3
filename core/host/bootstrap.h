/* The first exchange between ranks, made before there is any communication plugin: an all_gather of
 * a few bytes, through rank 0. Ranks of one node meet at an abstract unix socket, others by TCP at
 * MASTER_ADDR. Nothing happens before the first gather. */
#ifndef CORE_HOST_BOOTSTRAP_H
#define CORE_HOST_BOOTSTRAP_H

#include "zds/plugin.h"

typedef struct bootstrap bootstrap;

/* `env`: who meets whom, where, and how long they wait; its strings are copied. NULL without
 * memory. */
bootstrap *bootstrap_open(const zds_comm_env *env);
/* As zds_bootstrap's all_gather. */
zds_status bootstrap_gather(bootstrap *b, const void *mine, size_t bytes, void *all,
                            zds_error *error);
/* What a plugin gets; lives as long as `b`. */
const zds_bootstrap *bootstrap_offer(bootstrap *b);
/* No more gathers: ends all connections. Rank 0 keeps the name of the meeting point until close, so
 * that another job of the same MASTER_PORT is told. */
void bootstrap_finish(bootstrap *b);
void bootstrap_close(bootstrap *b);

#endif
