/* How the arena reaches all ranks: rank 0 listens on an abstract unix socket of a random name,
 * which the host's bootstrap tells the others, checks who connects, and hands each the arena's
 * descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "comm/shm/shm.h"

enum {
    VERSION = 3,
    STRANGERS = 16 /* connections that have not said who they are */
};
static const uint64_t MAGIC = 0x6d68732d73647aULL; /* "zds-shm" */

typedef struct hello {
    uint64_t magic;
    uint32_t version;
    int32_t rank, world_size, pid;
} hello;

typedef struct welcome {
    uint64_t magic;
    uint64_t arena_bytes;
    int32_t status;
    char text[400];
} welcome;

/* What rank 0 tells the others before they come. */
typedef struct invitation {
    int32_t status; /* why it cannot take them */
    char name[28];
    int32_t version;
} invitation;

static socklen_t make_address(struct sockaddr_un *address, const invitation *to)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    int n = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "%.*s",
                     (int)sizeof to->name, to->name);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

/* All ranks at once; only rank 0's counts. */
static zds_status invite(const job *j, const zds_comm_env *env, invitation *mine)
{
    const zds_host *host = j->host;
    if (!env->bootstrap)
        return host->fail(host, ZDS_ERR_INVALID, "init needs a bootstrap to find %d ranks",
                          (int)j->size);
    invitation *all = host->alloc(host, (size_t)j->size * sizeof *all, 0);
    if (!all)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory to find %d ranks", (int)j->size);
    zds_status status = env->bootstrap->all_gather(env->bootstrap, host, mine, sizeof *mine, all);
    *mine = all[0];
    host->free(host, all);
    return status;
}

static bool same_user(int fd, int32_t *pid)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != geteuid())
        return false;
    *pid = peer.pid;
    return true;
}

static void answer(int fd, const job *j, int32_t status, const char *text)
{
    welcome w = {.magic = MAGIC, .arena_bytes = j->arena_bytes, .status = status};
    snprintf(w.text, sizeof w.text, "%s", text);
    struct iovec part = {&w, sizeof w};
    alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (status == ZDS_OK) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &j->fd, sizeof(int));
    }
    /* A peer that is gone is noticed by whoever waits for it. */
    (void)sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* === rank 0 === */

typedef struct gathering {
    job *j;
    int listener;
    int strangers[STRANGERS];
    int32_t stranger_pid[STRANGERS];
    int32_t stranger_count, joined;
} gathering;

/* A name that nobody can guess, so that nobody can have it. */
static zds_status listen_anywhere(gathering *g, invitation *to)
{
    const zds_host *host = g->j->host;
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return host->fail(host, ZDS_ERR_IO, "getrandom: %s", strerror(errno));
    snprintf(to->name, sizeof to->name, "zds-shm-%016llx", (unsigned long long)random);
    struct sockaddr_un address;
    socklen_t length = make_address(&address, to);
    g->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (g->listener < 0)
        return host->fail(host, ZDS_ERR_IO, "socket: %s", strerror(errno));
    g->j->sockets[0] = g->listener; /* rank 0 needs no connection to itself */
    if (bind(g->listener, (struct sockaddr *)&address, length) != 0 ||
        listen(g->listener, g->j->size + STRANGERS) != 0)
        return host->fail(host, ZDS_ERR_IO, "cannot listen at the socket @%s: %s",
                          address.sun_path + 1, strerror(errno));
    return ZDS_OK;
}

static void meet(gathering *g)
{
    int fd;
    while ((fd = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        int32_t pid = 0;
        if (g->stranger_count == STRANGERS || !same_user(fd, &pid)) {
            close(fd);
            continue;
        }
        g->stranger_pid[g->stranger_count] = pid;
        g->strangers[g->stranger_count++] = fd;
    }
}

/* What a stranger says decides: 1 joined, 0 not yet, -1 refused. */
static int admit(gathering *g, int fd, int32_t pid)
{
    job *j = g->j;
    hello h;
    ssize_t n = recv(fd, &h, sizeof h, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    char text[256] = "";
    if (n != (ssize_t)sizeof h || h.magic != MAGIC)
        return -1;
    if (h.version != VERSION)
        snprintf(text, sizeof text, "rank 0 speaks version %d of the shm plugin, this rank %u",
                 VERSION, h.version);
    else if (h.world_size != j->size || h.rank < 1 || h.rank >= j->size)
        snprintf(text, sizeof text, "the job has %d ranks; rank %d of %d does not belong to it",
                 (int)j->size, (int)h.rank, (int)h.world_size);
    else if (j->sockets[h.rank] >= 0)
        snprintf(text, sizeof text, "the job has a rank %d already (pid %d)", (int)h.rank,
                 (int)j->header->pid[h.rank]);
    if (text[0]) {
        answer(fd, j, ZDS_ERR_INVALID, text);
        return -1;
    }
    j->sockets[h.rank] = fd;
    j->header->pid[h.rank] = h.pid == pid ? pid : 0; /* else in another pid namespace */
    g->joined++;
    return 1;
}

static void hear_strangers(gathering *g)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < g->stranger_count; i++) {
        int verdict = admit(g, g->strangers[i], g->stranger_pid[i]);
        if (verdict < 0)
            close(g->strangers[i]);
        if (verdict == 0) {
            g->stranger_pid[kept] = g->stranger_pid[i];
            g->strangers[kept++] = g->strangers[i];
        }
    }
    g->stranger_count = kept;
}

static void list_missing(const job *j, char *text, size_t size)
{
    size_t used = 0;
    text[0] = 0;
    for (int32_t r = 1; r < j->size && used + 16 < size; r++)
        if (j->sockets[r] < 0)
            used += (size_t)snprintf(text + used, size - used, "%s%d", used ? ", " : "", (int)r);
}

static zds_status gather(gathering *g)
{
    job *j = g->j;
    const zds_host *host = j->host;
    int64_t until = now_ms() + j->join_ms;
    struct pollfd *fds = host->alloc(host, sizeof *fds * (size_t)(j->size + STRANGERS), 0);
    if (!fds)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory to wait for %d ranks", (int)j->size);
    zds_status status = ZDS_OK;
    while (g->joined < j->size - 1 && !status) {
        nfds_t n = 0;
        for (int32_t r = 0; r < j->size; r++) /* the listener is at 0 */
            if (j->sockets[r] >= 0)
                fds[n++] = (struct pollfd){.fd = j->sockets[r], .events = POLLIN};
        nfds_t members = n;
        for (int32_t i = 0; i < g->stranger_count; i++)
            fds[n++] = (struct pollfd){.fd = g->strangers[i], .events = POLLIN};
        int64_t left = until - now_ms();
        if (left <= 0) {
            char missing[200];
            list_missing(j, missing, sizeof missing);
            status = host->fail(
                host, ZDS_ERR_PEER,
                "rank(s) %s did not come within %d ms (ZDS_TIMEOUT, or options.timeout_ms)",
                missing, (int)j->join_ms);
            break;
        }
        if (poll(fds, n, left < 1000 ? (int)left : 1000) < 0 && errno != EINTR)
            status = host->fail(host, ZDS_ERR_IO, "poll: %s", strerror(errno));
        for (nfds_t i = 1; i < members && !status; i++)
            if (fds[i].revents) /* members have nothing to say before the welcome */
                for (int32_t r = 1; r < j->size; r++)
                    if (j->sockets[r] == fds[i].fd)
                        status = host->fail(host, ZDS_ERR_PEER,
                                            "rank %d (pid %d) died before all ranks were there",
                                            (int)r, (int)j->header->pid[r]);
        hear_strangers(g);
        meet(g);
    }
    host->free(host, fds);
    return status;
}

static zds_status found(job *j, const zds_comm_env *env)
{
    const zds_host *host = j->host;
    zds_status status = arena_create(host, &j->fd, &j->arena_bytes);
    if (status)
        return status;
    j->header = arena_map(j, 0, sizeof *j->header, true);
    if (!j->header)
        return host->fail(host, ZDS_ERR_MEMORY, "cannot map shared memory: %s", strerror(errno));
    j->header->magic = MAGIC;
    j->header->version = VERSION;
    j->header->world_size = (uint32_t)j->size;
    j->header->pid[0] = getpid();
    atomic_store(&j->header->next, sizeof *j->header);
    j->header->control = arena_take(j, control_bytes(j->size));
    if (!j->header->control)
        return host->fail(host, ZDS_ERR_MEMORY,
                          "the limit on file sizes (ulimit -f) is too small for shared memory");
    if (j->size == 1)
        return ZDS_OK;
    gathering g = {.j = j};
    invitation to = {.version = VERSION};
    to.status = listen_anywhere(&g, &to);
    status = invite(j, env, &to);
    if (!status)
        status = to.status ? to.status : gather(&g);
    char text[256] = "";
    if (status) {
        char missing[200];
        list_missing(j, missing, sizeof missing);
        snprintf(text, sizeof text,
                 missing[0] ? "rank(s) %s did not come or died at the start"
                            : "rank 0 could not start: a rank died%s",
                 missing);
    }
    for (int32_t r = 1; r < j->size; r++)
        if (j->sockets[r] >= 0)
            answer(j->sockets[r], j, status, text);
    for (int32_t i = 0; i < g.stranger_count; i++)
        close(g.strangers[i]);
    return status;
}

/* === all others === */

static zds_status reach(const job *j, const zds_comm_env *env, int *out)
{
    const zds_host *host = j->host;
    invitation to = {.version = VERSION};
    zds_status status = invite(j, env, &to);
    if (status)
        return status;
    if (to.version != VERSION)
        return host->fail(host, ZDS_ERR_INVALID,
                          "rank 0 speaks version %d of the shm plugin, rank %d version %d",
                          (int)to.version, (int)j->rank, VERSION);
    if (to.status)
        return host->fail(host, ZDS_ERR_PEER, "rank 0 could not start");
    struct sockaddr_un address;
    socklen_t length = make_address(&address, &to);
    *out = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (*out < 0)
        return host->fail(host, ZDS_ERR_IO, "socket: %s", strerror(errno));
    if (connect(*out, (struct sockaddr *)&address, length) != 0) {
        status =
            host->fail(host, ZDS_ERR_PEER,
                       "cannot connect to rank 0 at @%s: %s; shm needs all ranks in one network"
                       " namespace",
                       address.sun_path + 1, strerror(errno));
        close(*out);
        *out = -1;
    }
    return status;
}

/* The welcome and the descriptor in it (-1 if there is none). */
static ssize_t receive(int fd, welcome *w, int *passed)
{
    struct iovec part = {w, sizeof *w};
    alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    *passed = -1;
    if (n < 0)
        return n;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(passed, CMSG_DATA(c), sizeof(int));
    return n;
}

/* A descriptor from outside is believed only if it cannot shrink under us. */
static bool trustworthy(int fd, uint64_t bytes)
{
    struct stat s;
    int seals = fcntl(fd, F_GET_SEALS);
    return fstat(fd, &s) == 0 && s.st_size >= 0 && (uint64_t)s.st_size == bytes && seals >= 0 &&
           (seals & F_SEAL_SHRINK);
}

static zds_status adopt(job *j, int fd, const welcome *w, ssize_t n)
{
    const zds_host *host = j->host;
    if (n != (ssize_t)sizeof *w || w->magic != MAGIC)
        return host->fail(host, ZDS_ERR_PEER, "rank 0 died while the ranks gathered");
    if (w->status)
        return host->fail(host, w->status, "%.*s", (int)sizeof w->text, w->text);
    j->fd = fd;
    j->arena_bytes = w->arena_bytes;
    if (fd < 0 || !trustworthy(fd, w->arena_bytes) || w->arena_bytes < sizeof *j->header)
        return host->fail(host, ZDS_ERR_PEER, "rank 0 sent shared memory that cannot be right");
    j->header = arena_map(j, 0, sizeof *j->header, true);
    if (!j->header)
        return host->fail(host, ZDS_ERR_MEMORY, "cannot map shared memory: %s", strerror(errno));
    if (j->header->magic != MAGIC || j->header->world_size != (uint32_t)j->size)
        return host->fail(host, ZDS_ERR_PEER, "rank 0 sent shared memory that cannot be right");
    return ZDS_OK;
}

static zds_status follow(job *j, const zds_comm_env *env)
{
    const zds_host *host = j->host;
    int64_t until = now_ms() + j->join_ms;
    int fd = -1;
    zds_status status = reach(j, env, &fd);
    if (status)
        return status;
    j->sockets[0] = fd;
    int32_t pid = 0;
    if (!same_user(fd, &pid))
        return host->fail(host, ZDS_ERR_PEER, "the socket of rank 0 belongs to another user");
    hello h = {MAGIC, VERSION, j->rank, j->size, getpid()};
    welcome w = {0};
    int passed = -1;
    ssize_t n = -1;
    if (send(fd, &h, sizeof h, MSG_NOSIGNAL) == (ssize_t)sizeof h) {
        /* Rank 0 gives up after its own timeout and says who is missing: wait a little longer. */
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        int ready;
        do
            ready =
                poll(&wait, 1, (int)(until + 2000 - now_ms() > 0 ? until + 2000 - now_ms() : 0));
        while (ready < 0 && errno == EINTR);
        if (ready == 0)
            return host->fail(host, ZDS_ERR_PEER, "rank 0 did not answer within %d ms",
                              (int)j->join_ms + 2000);
        n = receive(fd, &w, &passed);
    }
    w.text[sizeof w.text - 1] = 0;
    return adopt(j, passed, &w, n);
}

zds_status join_world(job *j, const zds_comm_env *env)
{
    return j->rank == 0 ? found(j, env) : follow(j, env);
}

void join_close(job *j)
{
    for (int32_t r = 0; r < j->size; r++)
        if (j->sockets[r] >= 0)
            close(j->sockets[r]);
}

void join_complete(job *j)
{
    if (j->rank == 0 && j->size > 1) {
        close(j->sockets[0]);
        j->sockets[0] = -1;
    }
}
