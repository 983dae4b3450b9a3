/* Who this process is among the ranks, as its launcher said in the environment. */
#include "host/launch.h"

#include <errno.h>
#include <stdlib.h>

#include "host/error.h"
#include "zds/zds.h"

typedef struct names {
    const char *rank, *world, *local_rank, *local_world;
} names;

/* The first row whose rank and world variables exist counts. */
static const names launchers[] = {
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"},
};

static zds_status number(const char *name, int32_t low, int32_t high, int32_t missing, int32_t *out,
                         zds_error *error)
{
    const char *text = getenv(name);
    if (!text) {
        *out = missing;
        return ZDS_OK;
    }
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high)
        return error_set(error, ZDS_ERR_INVALID,
                         "environment variable %s is \"%s\"; it must be a number from %d to %d",
                         name, text, low, high);
    *out = (int32_t)value;
    return ZDS_OK;
}

zds_status launch_read(launch *out, zds_error *error)
{
    const int32_t most = 1 << 20;
    *out = (launch){.world_size = 1, .local_world_size = 1};
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        const names *n = &launchers[i];
        if (!getenv(n->rank) || !getenv(n->world))
            continue;
        zds_status s = number(n->world, 1, most, 1, &out->world_size, error);
        if (!s)
            s = number(n->rank, 0, out->world_size - 1, 0, &out->rank, error);
        if (!s)
            s = number(n->local_world, 1, out->world_size, out->world_size, &out->local_world_size,
                       error);
        if (!s)
            s = number(n->local_rank, 0, out->local_world_size - 1,
                       out->rank % out->local_world_size, &out->local_rank, error);
        if (s)
            return s;
        break;
    }
    out->master_addr = getenv("MASTER_ADDR");
    if (!out->master_addr)
        out->master_addr = "127.0.0.1";
    zds_status s = number("MASTER_PORT", 1, 65535, out->world_size > 1 ? LAUNCH_PORT : 0,
                          &out->master_port, error);
    int32_t seconds = 60;
    if (!s)
        s = number("ZDS_TIMEOUT", 1, 2000000, 60, &seconds, error);
    out->timeout_ms = seconds * 1000;
    return s;
}

void zds_launched_as(int32_t *rank, int32_t *world_size)
{
    launch place;
    bool known = launch_read(&place, NULL) == ZDS_OK;
    *rank = known ? place.rank : 0;
    *world_size = known ? place.world_size : 1;
}
