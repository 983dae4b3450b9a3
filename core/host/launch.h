/* Who this process is among the ranks, as its launcher said in the environment. */
#ifndef CORE_HOST_LAUNCH_H
#define CORE_HOST_LAUNCH_H

#include "zds/plugin.h"

enum {
    LAUNCH_PORT = 29500,  /* where no port is named */
    LAUNCH_MOST = 1 << 20 /* ranks */
};

typedef struct launch {
    int32_t rank, world_size, local_rank, local_world_size;
    const char *master_addr;
    int32_t master_port;
    int32_t timeout_ms;
} launch;

/* From zds-run's and torchrun's variables (RANK, WORLD_SIZE, ...), Open MPI's, PMI's or Slurm's;
 * alone if there is none. A variable that is there but makes no sense is an error that names it. */
zds_status launch_read(launch *out, zds_error *error);

#endif
