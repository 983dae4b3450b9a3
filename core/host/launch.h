/* Who this process is among the ranks, as its launcher said in the environment. */
#ifndef CORE_HOST_LAUNCH_H
#define CORE_HOST_LAUNCH_H

#include "zds/plugin.h"

enum {
    LAUNCH_PORT = 29500,   /* where no port is named */
    LAUNCH_SILENCE = 1800, /* seconds that a rank may be silent, where nothing else is said */
    LAUNCH_MOST = 1 << 20, /* ranks */
    LAUNCH_HOST = 128      /* bytes of a host's identity, its end included */
};

typedef struct launch {
    int32_t rank, world_size;
    int32_t local_rank, local_world_size; /* both 0 where the launcher does not say */
    const char *master_addr;
    int32_t master_port;
    int32_t timeout_ms;
} launch;

/* From zds-run's and torchrun's variables (RANK, WORLD_SIZE, ...), Open MPI's, PMI's or Slurm's;
 * alone if there is none. A variable that is there but makes no sense is an error that names it. */
zds_status launch_read(launch *out, zds_error *error);

/* What tells this machine from others: its boot and its name, so that containers of one name on two
 * machines differ, and so do those of two names on one. All `size` bytes are set; LAUNCH_HOST are
 * enough. */
void launch_host_identity(char *out, size_t size);
/* Fills in the local numbers from the identities of all ranks, [world_size][stride] in rank order.
 */
void launch_place_locally(launch *l, const char *hosts, size_t stride);
/* Where the local numbers are not known and nobody can be asked: all ranks are here. */
void launch_assume_one_node(launch *l);

/* The variable and value by which this process was told its rank, "RANK=3", for the caller to free;
 * NULL if it was told none. */
char *launch_rank_told(void);
/* By what this process was told its local rank: the variable, or the option where there is none. */
const char *launch_local_rank_name(void);

#endif
