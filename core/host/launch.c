/* Who this process is among the ranks, as its launcher said in the environment. */
#include "host/launch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/error.h"
#include "host/sized.h"
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
 * SLURM_NTASKS_PER_NODE is only what was asked for, and is there only then: 0 where nothing is. */
static zds_status slurm_local_size(const launch *out, int32_t *size, zds_error *error)
{
    static const char *const lists[] = {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"};
    int32_t node = 0, here;
    int64_t total;
    zds_status s = number("SLURM_NODEID", 0, LAUNCH_MOST, 0, &node, error);
    for (size_t i = 0; !s && i < sizeof lists / sizeof *lists; i++) {
        s = read_task_list(lists[i], node, &here, &total, error);
        if (!s && here && total == out->world_size) {
            *size = here;
            return ZDS_OK;
        }
    }
    if (!s)
        s = number("SLURM_NTASKS_PER_NODE", 1, LAUNCH_MOST, 0, size, error);
    if (*size > out->world_size)
        *size = out->world_size;
    return s;
}

/* The first of the launchers that started this process, or NULL. */
static const names *launcher(void)
{
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++)
        if (getenv(launchers[i].rank) && getenv(launchers[i].world))
            return &launchers[i];
    return NULL;
}

/* Both local numbers, or neither; a rank that is alone, or with all others, needs only the size. */
static zds_status read_local(const names *n, launch *out, zds_error *error)
{
    int32_t size = 0;
    zds_status s = n->local_world ? number(n->local_world, 1, out->world_size, 0, &size, error)
                                  : slurm_local_size(out, &size, error);
    if (out->world_size == 1)
        size = 1;
    int32_t missing = size == out->world_size ? out->rank : -1, rank = -1;
    if (!s)
        s = number(n->local_rank, 0, (size ? size : out->world_size) - 1, missing, &rank, error);
    bool known = !s && size > 0 && rank >= 0;
    out->local_world_size = known ? size : 0;
    out->local_rank = known ? rank : 0;
    return s;
}

zds_status launch_read(launch *out, zds_error *error)
{
    *out = (launch){.world_size = 1, .local_world_size = 1};
    const names *n = launcher();
    zds_status s = ZDS_OK;
    if (n)
        s = number(n->world, 1, LAUNCH_MOST, 1, &out->world_size, error);
    if (n && !s)
        s = number(n->rank, 0, out->world_size - 1, 0, &out->rank, error);
    if (n && !s)
        s = read_local(n, out, error);
    if (s)
        return s;
    out->master_addr = getenv("MASTER_ADDR");
    if (!out->master_addr)
        out->master_addr = "127.0.0.1";
    s = number("MASTER_PORT", 1, 65535, out->world_size > 1 ? LAUNCH_PORT : 0, &out->master_port,
               error);
    int32_t seconds = LAUNCH_SILENCE;
    if (!s)
        s = number("ZDS_TIMEOUT", 1, 2000000, LAUNCH_SILENCE, &seconds, error);
    out->timeout_ms = seconds * 1000;
    return s;
}

void launch_host_identity(char *out, size_t size)
{
    char host[65] = "", boot[40] = "";
    memset(out, 0, size);
    gethostname(host, sizeof host - 1);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f) {
        if (!fgets(boot, sizeof boot, f))
            boot[0] = '\0';
        boot[strcspn(boot, "\n")] = '\0';
        fclose(f);
    }
    snprintf(out, size, "%s %s", boot, host);
}

void launch_place_locally(launch *l, const char *hosts, size_t stride)
{
    const char *mine = hosts + (size_t)l->rank * stride;
    l->local_rank = l->local_world_size = 0;
    for (int32_t r = 0; r < l->world_size; r++) {
        if (strncmp(hosts + (size_t)r * stride, mine, stride) != 0)
            continue;
        l->local_world_size++;
        l->local_rank += r < l->rank;
    }
}

void launch_assume_one_node(launch *l)
{
    if (l->local_world_size)
        return;
    l->local_world_size = l->world_size;
    l->local_rank = l->rank;
}

char *launch_rank_told(void)
{
    const names *n = launcher();
    return n ? text_format("%s=%s", n->rank, getenv(n->rank)) : NULL;
}

const char *launch_local_rank_name(void)
{
    const names *n = launcher();
    return n && getenv(n->local_rank) ? n->local_rank : "options.local_rank";
}

zds_status zds_launched_as(zds_comm_env *env, zds_error *error)
{
    launch l;
    if (!sized_is_set(env))
        return error_set(error, ZDS_ERR_INVALID, SIZED_NOT_SET, "zds_comm_env",
                         env ? env->struct_size : 0);
    zds_status status = launch_read(&l, error);
    if (status)
        l = (launch){.world_size = 1, .local_world_size = 1, .master_addr = "127.0.0.1"};
    zds_comm_env known = {.struct_size = env->struct_size,
                          .rank = l.rank,
                          .world_size = l.world_size,
                          .local_rank = l.local_rank,
                          .local_world_size = l.local_world_size,
                          .master_addr = l.master_addr,
                          .master_port = l.master_port,
                          .timeout_ms = l.timeout_ms,
                          .device = {.space = ZDS_SPACE_HOST}};
    memcpy(env, &known, env->struct_size < sizeof known ? env->struct_size : sizeof known);
    return status;
}
