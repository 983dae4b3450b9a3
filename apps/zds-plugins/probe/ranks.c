/* Ranks of a communication backend under check, each in a process of its own. */
#include "ranks.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/bootstrap.h"
#include "plugin/fault.h"
#include "plugin/options.h"
#include "plugin/registry.h"

enum { RUNNING = 0, DONE = 1, FAILED = 2, LEAVES = 3 };

static zds_comm_env env_of(int32_t rank, int32_t size, int32_t port, int32_t timeout_ms)
{
    return (zds_comm_env){.struct_size = sizeof(zds_comm_env),
                          .rank = rank,
                          .world_size = size,
                          .local_rank = rank,
                          .local_world_size = size,
                          .master_addr = ranks_address(),
                          .master_port = port,
                          .timeout_ms = timeout_ms};
}

char *ranks_refused(bench *b, int32_t size)
{
    zds_comm_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    const zds_comm_env env = env_of(0, size, size > 1, 1000);
    if (size < ops.least_ranks || (ops.most_ranks && size > ops.most_ranks))
        return fault_format("its least_ranks and most_ranks say that it is not for %d ranks",
                            (int)size);
    return ops.suits(&env) > 0
               ? NULL
               : fault_format("suits says that it is not for %d ranks of one node", (int)size);
}

/* A job that is met on one machine has its address and port for a name, and holds no port. So the
 * address tells checks apart: that of the process which makes the ranks. */
static struct in_addr address;

const char *ranks_address(void)
{
    static char text[INET_ADDRSTRLEN];
    const struct in_addr any = {htonl(INADDR_LOOPBACK)};
    return inet_ntop(AF_INET, address.s_addr ? &address : &any, text, sizeof text);
}

int32_t ranks_port(void)
{
    enum { NET = 127u << 24 | 64u << 16, PIDS = (64 << 16) - 1 };
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof at;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int32_t port = 29500;
    at.sin_addr.s_addr = htonl((uint32_t)NET | ((uint32_t)getpid() & PIDS));
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 &&
        getsockname(fd, (struct sockaddr *)&at, &length) == 0) {
        port = ntohs(at.sin_port);
        address = at.sin_addr;
    }
    if (fd >= 0)
        close(fd);
    return port;
}

/* === a rank === */

void peer_meet(peer *p)
{
    atomic_int *met = &p->board->met[p->meetings++ % RANKS_MEETINGS];
    atomic_fetch_add(met, 1);
    while (atomic_load(met) < p->size)
        nanosleep(&(struct timespec){0, 200000}, NULL);
}

void peer_leaves(peer *p)
{
    p->board->ranks[p->rank].how = LEAVES;
}

zds_status peer_init(peer *p)
{
    bench_clear(p->b);
    return p->ops.init(&p->b->host, p->options, &p->env, &p->self);
}

zds_status peer_push(peer *p)
{
    return p->ops.progress && !(p->ops.flags & ZDS_COMM_AUTO_PROGRESS) ? p->ops.progress(p->self)
                                                                       : ZDS_OK;
}

zds_status peer_call(peer *p, collective function, const zds_coll *coll)
{
    zds_event *done = NULL;
    int32_t over = 0;
    bench_clear(p->b);
    zds_status status = function(p->self, coll, &done);
    if (status || !done)
        return status;
    status = peer_push(p);
    if (!status)
        status = done->ops->test(done, &over);
    if (!status)
        status = done->ops->wait(done);
    done->ops->release(done);
    return status;
}

char *peer_do(peer *p, const char *what, collective function, const zds_coll *coll)
{
    zds_status status = peer_call(p, function, coll);
    return status ? bench_failure(p->b, what, status) : NULL;
}

zds_coll peer_coll(peer *p, const void *src, void *dst, uint64_t count, zds_dtype dtype)
{
    return (zds_coll){.struct_size = sizeof(zds_coll),
                      .tag = ++p->tag,
                      .src = src,
                      .dst = dst,
                      .count = count,
                      .src_dtype = dtype,
                      .dst_dtype = dtype};
}

static void run_rank(peer *p, peer_body body, bool bare)
{
    char *fault = NULL;
    cJSON *values = values_required(p->b->plugin);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    p->options = values_options(p->b->plugin, values, &fault);
    cJSON_Delete(values);
    bootstrap *meeting = bootstrap_open(&p->env);
    if (meeting)
        p->env.bootstrap = bootstrap_offer(meeting);
    else if (!fault)
        fault = fault_format("there is no memory for the check");
    if (!fault && !bare) {
        zds_status status = peer_init(p);
        fault = status ? bench_failure(p->b, "init", status) : NULL;
    }
    if (!fault)
        fault = body(p);
    if (fault) {
        strncpy(p->board->ranks[p->rank].text, fault, sizeof p->board->ranks[0].text - 1);
        p->board->ranks[p->rank].order = atomic_fetch_add(&p->board->faults, 1);
    } else if (!bare)
        p->ops.finalize(p->self);
    bootstrap_close(meeting);
    p->board->ranks[p->rank].how = fault ? FAILED : DONE;
    _exit(0);
}

/* === all of them === */

/* What is wrong with a rank whose process has ended. */
static char *end_fault(const board *all, int32_t rank, int status)
{
    const int32_t how = all->ranks[rank].how;
    if (how == FAILED)
        return fault_format("rank %d: %s", (int)rank, all->ranks[rank].text);
    if (how == DONE || how == LEAVES)
        return NULL;
    return WIFSIGNALED(status)
               ? fault_format("rank %d crashed: %s", (int)rank, strsignal(WTERMSIG(status)))
               : fault_format("rank %d ended its process with exit code %d", (int)rank,
                              WEXITSTATUS(status));
}

/* Which fault came first: one that a rank could not tell, for others then miss it; then as told. */
static int32_t order_of(const board *all, int32_t rank)
{
    return all->ranks[rank].how == FAILED ? all->ranks[rank].order : -1;
}

/* Until all have ended, or one has a fault, which ends the others. The first fault counts, not that
 * of the process which is waited for first: a rank that misses another may end beside it. */
static char *await(const board *all, pid_t pids[RANKS_MOST])
{
    char *first = NULL;
    int32_t order = 0;
    for (;;) {
        int status;
        pid_t ended = waitpid(-1, &status, 0);
        if (ended < 0 && errno == EINTR)
            continue;
        if (ended < 0)
            return first;
        for (int32_t r = 0; r < RANKS_MOST; r++) {
            if (pids[r] != ended)
                continue;
            pids[r] = 0;
            const bool is_ended = first && all->ranks[r].how != FAILED && WIFSIGNALED(status) &&
                                  WTERMSIG(status) == SIGKILL; /* below */
            char *fault = is_ended ? NULL : end_fault(all, r, status);
            if (fault && (!first || order_of(all, r) < order)) {
                fault_free(first);
                first = fault;
                order = order_of(all, r);
            } else {
                fault_free(fault);
            }
        }
        for (int32_t r = 0; first && r < RANKS_MOST; r++)
            if (pids[r] > 0)
                kill(pids[r], SIGKILL);
    }
}

/* `present`: ranks that come, from 0 on. */
static char *run_all(bench *b, int32_t present, int32_t size, int32_t timeout_ms, peer_body body,
                     bool bare)
{
    pid_t pids[RANKS_MOST] = {0};
    board *all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return fault_format("there is no memory for the check");
    const int32_t port = ranks_port();
    for (int32_t r = 0; r < present; r++) {
        pids[r] = fork();
        if (pids[r] == 0) {
            peer p = {.b = b,
                      .env = env_of(r, size, port, timeout_ms),
                      .rank = r,
                      .size = size,
                      .board = all};
            plugin_ops(b->plugin, &p.ops, sizeof p.ops);
            run_rank(&p, body, bare);
        }
    }
    char *fault = bench_within(await(all, pids), "%d ranks", (int)size);
    munmap(all, sizeof *all);
    return fault;
}

char *ranks_run(bench *b, int32_t size, int32_t timeout_ms, peer_body body)
{
    return run_all(b, size, size, timeout_ms, body, false);
}

char *ranks_first(bench *b, int32_t size, int32_t timeout_ms, peer_body body)
{
    return run_all(b, 1, size, timeout_ms, body, true);
}

char *ranks_worlds(bench *b, peer_body body)
{
    char *fault = NULL, *refused = NULL;
    bool ran = false;
    for (int32_t size = 2; size <= RANKS_MOST && !fault; size++) {
        fault_free(refused);
        refused = ranks_refused(b, size);
        ran = ran || !refused;
        if (!refused)
            fault = ranks_run(b, size, RANKS_TIMEOUT_MS, body);
    }
    if (ran)
        fault_free(refused);
    else
        b->skipped = refused;
    return fault;
}
