/* Who this process is among the ranks, as its launcher said in the environment. */
#include "host/launch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
    {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", NULL}, /* see slurm_local_size */
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

/* Slurm's lists of tasks on each node of a job or step, "2(x3),1": *here is the entry of `node`
 * (0: there is none), *total their sum. */
static zds_status read_task_list(const char *name, int32_t node, int32_t *here, int64_t *total,
                                 zds_error *error)
{
    const char *text = getenv(name), *p = text;
    *here = 0;
    *total = 0;
    for (int64_t first = 0; p;) {
        char *end;
        long long tasks = strtoll(p, &end, 10), nodes = 1;
        bool good = end > p && tasks >= 1 && tasks <= LAUNCH_MOST;
        if (good && strncmp(end, "(x", 2) == 0) {
            p = end + 2;
            nodes = strtoll(p, &end, 10);
            good = end > p && nodes >= 1 && nodes <= LAUNCH_MOST && *end++ == ')';
        }
        if (!good || (*end && *end != ','))
            return error_set(error, ZDS_ERR_INVALID,
                             "environment variable %s is \"%s\"; it must be a list of tasks on "
                             "each node, like 2(x3),1",
                             name, text);
        if (node >= first && node < first + nodes)
            *here = (int32_t)tasks;
        first += nodes;
        *total += tasks * nodes;
        p = *end ? end + 1 : NULL;
    }
    return ZDS_OK;
}

/* Slurm says who shares a node in lists; the one of the job counts where the step is the whole job.
 * SLURM_NTASKS_PER_NODE is only what was asked for, and is there only then. */
static zds_status slurm_local_size(launch *out, zds_error *error)
{
    static const char *const lists[] = {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"};
    int32_t node = 0, here;
    int64_t total;
    zds_status s = number("SLURM_NODEID", 0, LAUNCH_MOST, 0, &node, error);
    for (size_t i = 0; !s && i < sizeof lists / sizeof *lists; i++) {
        s = read_task_list(lists[i], node, &here, &total, error);
        if (!s && here && total == out->world_size) {
            out->local_world_size = here;
            return ZDS_OK;
        }
    }
    if (!s)
        s = number("SLURM_NTASKS_PER_NODE", 1, LAUNCH_MOST, out->world_size, &out->local_world_size,
                   error);
    if (out->local_world_size > out->world_size)
        out->local_world_size = out->world_size;
    return s;
}

zds_status launch_read(launch *out, zds_error *error)
{
    *out = (launch){.world_size = 1, .local_world_size = 1};
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        const names *n = &launchers[i];
        if (!getenv(n->rank) || !getenv(n->world))
            continue;
        zds_status s = number(n->world, 1, LAUNCH_MOST, 1, &out->world_size, error);
        if (!s)
            s = number(n->rank, 0, out->world_size - 1, 0, &out->rank, error);
        if (!s)
            s = n->local_world ? number(n->local_world, 1, out->world_size, out->world_size,
                                        &out->local_world_size, error)
                               : slurm_local_size(out, error);
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

zds_status zds_launched_as(zds_comm_env *env, zds_error *error)
{
    launch place;
    if (env->struct_size < sizeof env->struct_size)
        return error_set(error, ZDS_ERR_INVALID,
                         "struct_size of the zds_comm_env is %zu; set it to sizeof",
                         env->struct_size);
    zds_status status = launch_read(&place, error);
    if (status)
        place = (launch){.world_size = 1, .local_world_size = 1, .master_addr = "127.0.0.1"};
    zds_comm_env known = {.struct_size = env->struct_size,
                          .rank = place.rank,
                          .world_size = place.world_size,
                          .local_rank = place.local_rank,
                          .local_world_size = place.local_world_size,
                          .master_addr = place.master_addr,
                          .master_port = place.master_port,
                          .timeout_ms = place.timeout_ms,
                          .device = {.space = ZDS_SPACE_HOST}};
    memcpy(env, &known, env->struct_size < sizeof known ? env->struct_size : sizeof known);
    return status;
}
