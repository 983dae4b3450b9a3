/* The plugin: its vtable, and the start and end of a world. */
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "comm/shm/shm.h"
#include "common/simd_level.h"

static int32_t suits(const zds_comm_env *env)
{
    if (env->world_size != env->local_world_size || env->world_size > MAX_RANKS)
        return 0;
    return env->world_size > 1 ? 50 : 1;
}

static zds_status check_env(const zds_host *host, const zds_comm_env *env)
{
    if (env->world_size < 1 || env->rank < 0 || env->rank >= env->world_size)
        return host->fail(host, ZDS_ERR_INVALID, "rank %d of %d does not exist", (int)env->rank,
                          (int)env->world_size);
    if (env->world_size != env->local_world_size || env->world_size > MAX_RANKS)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "shm serves up to %d ranks of one node, but %d of %d are here: use mpi"
                          " or nccl",
                          MAX_RANKS, (int)env->local_world_size, (int)env->world_size);
    int level;
    return simd_level(host, &level);
}

enum {
    SPINS = 12,
    MOST_SPINS = 1000000,
    JOIN_MS = 60000, /* for all ranks to come, at most */
    WARN_MS = 60000  /* of silence, from one warning to the next */
};

static const zds_option option_table[] = {
    {.name = "spins",
     .type = ZDS_OPTION_INT,
     .flags = ZDS_OPTION_NULLABLE,
     .offset = offsetof(shm_options, spins),
     .default_value = "null",
     .min = 0,
     .max = MOST_SPINS,
     .doc =
         "looks at the peers, some hundred nanoseconds each, before a wait sleeps; null: 12 where"
         " there is a processor for each rank, else 0"},
    {.name = "huge_pages",
     .type = ZDS_OPTION_BOOL,
     .offset = offsetof(shm_options, huge_pages),
     .default_value = "true",
     .min = -INFINITY,
     .max = INFINITY,
     .doc = "asks for huge pages in shared memory of 2 MiB and more"},
};

static zds_status open_job(const zds_host *host, const shm_options *options,
                           const zds_comm_env *env, job **out)
{
    job *j = host->alloc(host, sizeof *j, 0);
    if (!j)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a communicator");
    *out = j;
    j->host = host;
    j->fd = -1;
    j->rank = env->rank;
    j->size = env->world_size;
    /* A short spin saves a wake-up only if the peer runs meanwhile. */
    j->spins = options && options->spins >= 0             ? (int32_t)options->spins
               : sysconf(_SC_NPROCESSORS_ONLN) >= j->size ? SPINS
                                                          : 0;
    j->huge_pages = !options || options->huge_pages;
    j->timeout_ms = env->timeout_ms > 0 ? env->timeout_ms : JOIN_MS;
    j->join_ms = j->timeout_ms < JOIN_MS ? j->timeout_ms : JOIN_MS;
    j->warn_ms = j->timeout_ms / 2 < WARN_MS ? j->timeout_ms / 2 : WARN_MS;
    pthread_mutex_init(&j->lock, NULL);
    atomic_store(&j->references, 1);
    j->sockets = host->alloc(host, (size_t)j->size * sizeof *j->sockets, 0);
    j->pidfds = host->alloc(host, (size_t)j->size * sizeof *j->pidfds, 0);
    if (!j->sockets || !j->pidfds)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for %d ranks", (int)j->size);
    for (int32_t r = 0; r < j->size; r++)
        j->sockets[r] = j->pidfds[r] = -1;
    zds_status status = join_world(j, env);
    if (!status)
        health_open(j);
    return status;
}

/* Nobody leaves init before all have come in: a later fault is then a peer's, not a missing one's.
 */
static zds_status meet_all(comm *c)
{
    zds_coll a = {.struct_size = sizeof a};
    zds_event *done;
    zds_status status = issue(c, OP_BARRIER, &a, &done);
    if (status)
        return status;
    status = done->ops->wait(done);
    done->ops->release(done);
    return status;
}

static zds_status init(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self)
{
    zds_status status = check_env(host, env);
    if (status)
        return status;
    job *j = NULL;
    comm *c = NULL;
    status = open_job(host, options, env, &j);
    if (!status)
        status = comm_create(j, j->header->control, j->rank, j->size, NULL, &c);
    if (!status)
        status = meet_all(c);
    if (!status)
        join_complete(j);
    if (j) /* from here on the communicators hold it */
        job_drop(j);
    if (status && c)
        comm_destroy(c);
    *self = status ? NULL : c;
    return status;
}

static void finalize(void *self)
{
    comm_destroy(self);
}

#define COLLECTIVE(name, kind)                                                                     \
    static zds_status name(void *self, const zds_coll *coll, zds_event **done)                     \
    {                                                                                              \
        return issue(self, kind, coll, done);                                                      \
    }
COLLECTIVE(all_reduce, OP_ALL_REDUCE)
COLLECTIVE(reduce, OP_REDUCE)
COLLECTIVE(reduce_scatter, OP_REDUCE_SCATTER)
COLLECTIVE(all_gather, OP_ALL_GATHER)
COLLECTIVE(broadcast, OP_BROADCAST)
COLLECTIVE(all_to_all, OP_ALL_TO_ALL)
COLLECTIVE(send_to, OP_SEND)
COLLECTIVE(recv_from, OP_RECV)

static zds_status barrier(void *self, const zds_coll *coll, zds_event **done)
{
    zds_coll given = coll_copy(coll);
    zds_coll a = {.struct_size = given.struct_size < sizeof a ? given.struct_size : sizeof a,
                  .tag = given.tag,
                  .what = given.what,
                  .waits = given.waits,
                  .wait_count = given.wait_count,
                  .stream = given.stream};
    return issue(self, OP_BARRIER, &a, done);
}

static zds_status make_progress(void *self)
{
    comm *c = self;
    progress(c);
    return c->status ? comm_error(c) : ZDS_OK;
}

static void give_up(void *self, const char *reason)
{
    comm *c = self;
    char text[300];
    snprintf(text, sizeof text, "rank %d gave up: %s", (int)c->job->rank,
             reason && reason[0] ? reason : "no reason given");
    record_failure(c->job, ZDS_ERR_PEER, text);
    for (int32_t r = 0; r < c->size; r++) /* this rank's own waiting thread too */
        wake_rank(c, r);
}

static const zds_comm_ops ops = {
    .struct_size = sizeof ops,
    .flags = ZDS_COMM_FUSED | ZDS_COMM_DETERMINISTIC | ZDS_COMM_NODE_SHARED | ZDS_COMM_COPIES |
             ZDS_COMM_ONE_NODE,
    .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
    .reduce_dtypes = REDUCE_DTYPES,
    .least_ranks = 1,
    .most_ranks = MAX_RANKS,
    .suits = suits,
    .init = init,
    .finalize = finalize,
    .split = comm_split,
    .mem_alloc = comm_mem_alloc,
    .mem_free = comm_mem_free,
    .mem_register = comm_mem_register,
    .mem_unregister = comm_mem_unregister,
    .counter_add = comm_counter_add,
    .counter_wait = comm_counter_wait,
    .all_reduce = all_reduce,
    .reduce = reduce,
    .reduce_scatter = reduce_scatter,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .all_to_all = all_to_all,
    .send = send_to,
    .recv = recv_from,
    .barrier = barrier,
    .progress = make_progress,
    .abort = give_up,
};

static const zds_plugin plugin = {
    .struct_size = sizeof plugin,
    .kind = ZDS_KIND_COMM,
    .abi_minor = ZDS_ABI_MINOR,
    .name = "shm",
    .version = "1.0",
    .doc = "ranks of one node over shared memory: no copies between regions, futex waits",
    ZDS_OPTION_TABLE(option_table, shm_options),
    .ops = &ops,
};
ZDS_PLUGINS(&plugin);
