/* How ranks find each other: rank 0's side, and unix sockets. */
#include "host/meet.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "host/error.h"

enum {
    STRANGERS = 32,      /* connections that have not said who they are */
    NAME_RETRY_MS = 500, /* a job that is just ending may still hold the name */
    UNIX_MS = 100,       /* where rank 0 may be elsewhere: for this machine, */
    TCP_MS = 1500,       /* and then for others */
    GREETING_MS = 2000   /* to say hello */
};

/* The answer to a greeting. */
typedef struct hello {
    uint64_t magic;
    uint32_t version;
    int32_t rank, world_size, pid;
    char job[64];
    meet_local local;
} hello;

int64_t meet_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void pause_ms(int64_t ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

bool meet_is_ours(const meeting *m, const meet_greeting *g)
{
    return g->magic == MEET_MAGIC && strncmp(g->job, m->job, sizeof g->job) == 0;
}

void meet_refuse(int fd, uint32_t number, zds_status status, const char *text)
{
    char message[sizeof(meet_frame) + 1000];
    snprintf(message + sizeof(meet_frame), sizeof message - sizeof(meet_frame), "%s", text);
    size_t length = strlen(message + sizeof(meet_frame));
    meet_frame head = {.magic = MEET_MAGIC, .number = number, .status = status, .bytes = length};
    memcpy(message, &head, sizeof head);
    /* One that is gone is noticed by whoever waits for it. */
    (void)send(fd, message, sizeof head + length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* === names of unix sockets === */

/* Rank 0 of a job has a name on this machine as long as the job lives, through all its engines. */
typedef struct claim {
    struct claim *next;
    struct sockaddr_un address;
    int fd;
    int holders;
    pid_t pid; /* a forked child holds nothing */
} claim;

static claim *claims;
static pthread_mutex_t claims_lock = PTHREAD_MUTEX_INITIALIZER;

static socklen_t make_name(struct sockaddr_un *address, const meeting *m, const char *purpose)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    int n = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "zds-%s-%u-%.60s-%d",
                     purpose, (unsigned)geteuid(), m->addr, (int)m->port);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

static zds_status bind_name(int fd, const struct sockaddr_un *address, socklen_t length,
                            const meeting *m, zds_error *error)
{
    int64_t until = meet_now() + NAME_RETRY_MS;
    while (bind(fd, (const struct sockaddr *)address, length) != 0) {
        if (errno != EADDRINUSE)
            return error_set(error, ZDS_ERR_IO, "cannot bind the socket @%s: %s",
                             address->sun_path + 1, strerror(errno));
        if (meet_now() >= until)
            return error_set(error, ZDS_ERR_IO,
                             "another job of this user runs with MASTER_ADDR %s and MASTER_PORT %d"
                             " on this machine; give this one another MASTER_PORT",
                             m->addr, (int)m->port);
        pause_ms(20);
    }
    return ZDS_OK;
}

static claim *find_claim(const struct sockaddr_un *address)
{
    for (claim *c = claims; c; c = c->next)
        if (c->pid == getpid() && memcmp(&c->address, address, sizeof *address) == 0)
            return c;
    return NULL;
}

static zds_status take_claim(meeting *m, zds_error *error)
{
    struct sockaddr_un address;
    socklen_t length = make_name(&address, m, "job");
    zds_status status = ZDS_OK;
    pthread_mutex_lock(&claims_lock);
    claim *c = find_claim(&address);
    if (!c) {
        c = calloc(1, sizeof *c);
        int fd = c ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
        status = !c       ? error_set(error, ZDS_ERR_MEMORY, "no memory for a socket")
                 : fd < 0 ? error_set(error, ZDS_ERR_IO, "socket: %s", strerror(errno))
                          : bind_name(fd, &address, length, m, error);
        if (status) {
            if (fd >= 0)
                close(fd);
            free(c);
            c = NULL;
        } else {
            *c = (claim){.next = claims, .address = address, .fd = fd, .pid = getpid()};
            claims = c;
        }
    }
    if (c)
        c->holders++;
    m->claim = c;
    pthread_mutex_unlock(&claims_lock);
    return status;
}

void meet_release(meeting *m)
{
    pthread_mutex_lock(&claims_lock);
    claim *mine = m->claim;
    if (mine && --mine->holders == 0) {
        claim **link = &claims;
        while (*link != mine)
            link = &(*link)->next;
        *link = mine->next;
        close(mine->fd);
        free(mine);
    }
    m->claim = NULL;
    pthread_mutex_unlock(&claims_lock);
}

static bool same_user(int fd, pid_t *pid)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != geteuid())
        return false;
    *pid = peer.pid;
    return true;
}

static int unix_listen(meeting *m, zds_error *error)
{
    struct sockaddr_un address;
    socklen_t length = make_name(&address, m, "meet");
    if (take_claim(m, error))
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set(error, ZDS_ERR_IO, "socket: %s", strerror(errno));
        return -1;
    }
    if (bind_name(fd, &address, length, m, error) == ZDS_OK) {
        if (listen(fd, m->size + STRANGERS) == 0)
            return fd;
        error_set(error, ZDS_ERR_IO, "listen: %s", strerror(errno));
    }
    close(fd);
    return -1;
}

/* === rank 0 === */

enum { BY_TCP, BY_UNIX, WAYS };

typedef struct stranger {
    int fd;
    pid_t pid; /* 0: not known */
    int64_t until;
    hello said;
    size_t have; /* bytes of it */
} stranger;

typedef struct gathering {
    meeting *m;
    int listeners[WAYS]; /* -1: not by this way */
    stranger strangers[STRANGERS];
    int32_t count, joined;
} gathering;

static void forget(gathering *g, int32_t i)
{
    close(g->strangers[i].fd);
    g->strangers[i] = g->strangers[--g->count];
}

/* The longest here makes room: whoever says nothing keeps nobody out. */
static zds_status meet_strangers(gathering *g, int way, zds_error *error)
{
    meet_greeting greeting = {
        .magic = MEET_MAGIC, .version = MEET_VERSION, .world_size = g->m->size};
    memcpy(greeting.job, g->m->job, sizeof greeting.job);
    int fd;
    if (g->listeners[way] < 0)
        return ZDS_OK;
    while ((fd = accept4(g->listeners[way], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        stranger new = {.fd = fd, .until = meet_now() + GREETING_MS};
        if ((way == BY_UNIX && !same_user(fd, &new.pid)) ||
            send(fd, &greeting, sizeof greeting, MSG_NOSIGNAL | MSG_DONTWAIT) !=
                (ssize_t)sizeof greeting) {
            close(fd);
            continue;
        }
        if (way == BY_TCP)
            meet_tcp_watch(fd);
        if (g->count == STRANGERS) {
            int32_t oldest = 0;
            for (int32_t i = 1; i < g->count; i++)
                if (g->strangers[i].until < g->strangers[oldest].until)
                    oldest = i;
            forget(g, oldest);
        }
        g->strangers[g->count++] = new;
    }
    if (errno == EMFILE || errno == ENFILE)
        return error_set(error, ZDS_ERR_IO,
                         "rank 0 cannot have a descriptor for each of %d ranks: %s; raise `ulimit"
                         " -n`",
                         (int)g->m->size, strerror(errno));
    return ZDS_OK;
}

/* Why whoever said this is not let in; "" if it is. */
static zds_status judge(const meeting *m, const hello *h, char *text, size_t size)
{
    text[0] = 0;
    if (h->version != MEET_VERSION)
        snprintf(text, size, "rank 0 runs another version of zds than rank %d", (int)h->rank);
    else if (strncmp(h->job, m->job, sizeof h->job) != 0)
        snprintf(text, size,
                 "another job uses this MASTER_PORT; give each job its own MASTER_PORT");
    else if (h->world_size != m->size || h->rank < 1 || h->rank >= m->size)
        snprintf(text, size,
                 "the job at this MASTER_PORT has %d ranks; rank %d of %d does not belong to it",
                 (int)m->size, (int)h->rank, (int)h->world_size);
    else if (m->sockets[h->rank] >= 0)
        snprintf(text, size,
                 "the job at this MASTER_PORT has a rank %d already (pid %d); give each job its own"
                 " MASTER_PORT",
                 (int)h->rank, (int)m->pids[h->rank]);
    return text[0] ? ZDS_ERR_INVALID : ZDS_OK;
}

/* True if stranger i is one no more: it joined, or was sent away. */
static bool hear(gathering *g, int32_t i)
{
    meeting *m = g->m;
    stranger *s = &g->strangers[i];
    ssize_t n = recv(s->fd, (char *)&s->said + s->have, sizeof s->said - s->have, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) &&
        meet_now() < s->until)
        return false;
    if (n > 0)
        s->have += (size_t)n;
    bool is_zds = n > 0 && (s->have < sizeof s->said.magic || s->said.magic == MEET_MAGIC);
    if (is_zds && s->have < sizeof s->said)
        return false;
    char text[256];
    zds_status status = is_zds ? judge(m, &s->said, text, sizeof text) : ZDS_ERR_INVALID;
    if (status) {
        if (is_zds)
            meet_refuse(s->fd, 0, status, text);
        forget(g, i);
        return true;
    }
    m->sockets[s->said.rank] = s->fd;
    m->pids[s->said.rank] = s->pid ? s->pid : s->said.pid;
    m->locals[s->said.rank] = s->said.local;
    g->joined++;
    g->strangers[i] = g->strangers[--g->count];
    return true;
}

static void list_missing(const meeting *m, char *text, size_t size)
{
    size_t used = 0;
    text[0] = 0;
    for (int32_t r = 1; r < m->size && used + 16 < size; r++)
        if (m->sockets[r] < 0)
            used += (size_t)snprintf(text + used, size - used, "%s%d", used ? ", " : "", (int)r);
}

/* Nobody who has come may leave before all are there. */
static zds_status check_members(const meeting *m, const struct pollfd *fds, zds_error *error)
{
    for (int32_t r = 1; r < m->size; r++)
        if (m->sockets[r] >= 0 && fds[r].revents)
            return error_set(error, ZDS_ERR_PEER,
                             "rank %d (pid %d) died before all ranks were there", (int)r,
                             (int)m->pids[r]);
    return ZDS_OK;
}

static zds_status gather(gathering *g, int64_t until, zds_error *error)
{
    meeting *m = g->m;
    size_t room = (size_t)m->size + STRANGERS + WAYS;
    struct pollfd *fds = calloc(room, sizeof *fds);
    if (!fds)
        return error_set(error, ZDS_ERR_MEMORY, "no memory to wait for %d ranks", (int)m->size);
    zds_status status = ZDS_OK;
    while (g->joined < m->size - 1 && !status) {
        /* By rank; poll passes over what is -1. Members may say something before their turn. */
        for (int32_t r = 1; r < m->size; r++)
            fds[r] = (struct pollfd){.fd = m->sockets[r], .events = POLLRDHUP};
        fds[0] = (struct pollfd){.fd = -1};
        struct pollfd *others = fds + m->size;
        for (int way = 0; way < WAYS; way++)
            others[way] = (struct pollfd){.fd = g->listeners[way], .events = POLLIN};
        for (int32_t i = 0; i < g->count; i++)
            others[WAYS + i] = (struct pollfd){.fd = g->strangers[i].fd, .events = POLLIN};
        int64_t left = until - meet_now();
        if (left <= 0) {
            char missing[200];
            list_missing(m, missing, sizeof missing);
            status = error_set(error, ZDS_ERR_PEER,
                               "rank(s) %s did not come within %d ms (ZDS_TIMEOUT, or "
                               "options.timeout_ms); were all %d"
                               " started, with the same MASTER_ADDR and MASTER_PORT, and with one"
                               " LOCAL_WORLD_SIZE on each machine?",
                               missing, (int)m->timeout_ms, (int)m->size);
            break;
        }
        nfds_t n = (nfds_t)(m->size + WAYS + g->count);
        if (poll(fds, n, left < 1000 ? (int)left : 1000) < 0 && errno != EINTR)
            status = error_set(error, ZDS_ERR_IO, "poll: %s", strerror(errno));
        if (!status)
            status = check_members(m, fds, error);
        for (int32_t i = 0; i < g->count;)
            i += !hear(g, i);
        for (int way = 0; way < WAYS && !status; way++)
            status = meet_strangers(g, way, error);
    }
    free(fds);
    return status;
}

static void list_ranks(const meeting *m, bool told, char *text, size_t size)
{
    size_t used = 0;
    text[0] = 0;
    for (int32_t r = 0; r < m->size && used + 16 < size; r++)
        if ((m->locals[r].size > 0) == told)
            used += (size_t)snprintf(text + used, size - used, "%s%d", used ? ", " : "", (int)r);
}

static bool share_machine(const meeting *m, int32_t a, int32_t b)
{
    return m->one_node ||
           memcmp(m->locals[a].host, m->locals[b].host, sizeof m->locals[a].host) == 0;
}

static int32_t count_here(const meeting *m, int32_t rank)
{
    int32_t count = 0;
    for (int32_t r = 0; r < m->size; r++)
        count += share_machine(m, rank, r);
    return count;
}

/* Ranks of one machine that have one local rank get the same cores. Where there are more of them
 * than each was told, they play several nodes. */
static zds_status check_locals(const meeting *m, zds_error *error)
{
    char told[200], others[200];
    const char *name = launch_local_rank_name();
    list_ranks(m, true, told, sizeof told);
    list_ranks(m, false, others, sizeof others);
    if (told[0] && others[0])
        return error_set(error, ZDS_ERR_INVALID,
                         "rank(s) %s have %s and the number of ranks on their machine"
                         " (LOCAL_WORLD_SIZE), rank(s) %s have not; give both to all ranks, or to"
                         " none",
                         told, name, others);
    for (int32_t a = 0; told[0] && a < m->size; a++)
        for (int32_t b = a + 1; b < m->size; b++)
            if (m->locals[a].rank == m->locals[b].rank && share_machine(m, a, b) &&
                count_here(m, a) <= m->locals[a].size)
                return error_set(error, ZDS_ERR_INVALID,
                                 "ranks %d and %d run on one machine and both have %s %d; each of"
                                 " the %d ranks there must have its own",
                                 (int)a, (int)b, name, (int)m->locals[a].rank,
                                 (int)m->locals[a].size);
    return ZDS_OK;
}

static zds_status listen_all(gathering *g, zds_error *error)
{
    meeting *m = g->m;
    g->listeners[BY_TCP] = m->one_node ? -1 : meet_tcp_listen(m, error);
    g->listeners[BY_UNIX] =
        m->one_node || (m->anywhere && g->listeners[BY_TCP] >= 0)
            ? unix_listen(m, m->one_node ? error : NULL) /* else TCP will do without */
            : -1;
    if (g->listeners[m->one_node ? BY_UNIX : BY_TCP] >= 0)
        return ZDS_OK;
    return error ? error->status : ZDS_ERR_IO;
}

static zds_status lead(meeting *m, int64_t until, zds_error *error)
{
    gathering g = {.m = m};
    m->locals[0] = m->local;
    zds_status status = listen_all(&g, error);
    if (status)
        return status;
    status = gather(&g, until, error);
    if (!status)
        status = check_locals(m, error);
    if (status) {
        char missing[200], text[256];
        list_missing(m, missing, sizeof missing);
        snprintf(text, sizeof text, "rank(s) %s did not come or died at the start", missing);
        for (int32_t r = 1; r < m->size; r++)
            if (m->sockets[r] >= 0)
                meet_refuse(m->sockets[r], 0, status,
                            missing[0] || !error || !error->text ? text : error->text);
    }
    while (g.count)
        forget(&g, 0);
    for (int way = 0; way < WAYS; way++)
        if (g.listeners[way] >= 0)
            close(g.listeners[way]);
    return status;
}

/* === all others === */

/* Waits for the greeting; false if none comes that could be rank 0's. */
static bool hear_greeting(int fd, meet_greeting *g, int64_t until)
{
    size_t have = 0;
    while (have < sizeof *g) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = until - meet_now();
        if (left <= 0 || (poll(&p, 1, (int)left) < 0 && errno != EINTR))
            return false;
        ssize_t n = recv(fd, (char *)g + have, sizeof *g - have, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            return false;
        have += n > 0 ? (size_t)n : 0;
    }
    return g->magic == MEET_MAGIC;
}

static zds_status check_owner(const meeting *m, int fd, pid_t *pid, const meet_greeting *g,
                              zds_error *error)
{
    if (!same_user(fd, pid))
        return error_set(error, ZDS_ERR_PEER,
                         "the socket of MASTER_ADDR %s, MASTER_PORT %d belongs to another user;"
                         " choose another MASTER_PORT",
                         m->addr, (int)m->port);
    if (!meet_is_ours(m, g))
        return error_set(error, ZDS_ERR_INVALID,
                         "another job of this user meets at MASTER_ADDR %s, MASTER_PORT %d; give"
                         " each job its own MASTER_PORT",
                         m->addr, (int)m->port);
    return ZDS_OK;
}

/* A connection that has been greeted by rank 0, or -1. */
static int unix_connect(meeting *m, int64_t until, zds_error *error)
{
    struct sockaddr_un address;
    socklen_t length = make_name(&address, m, "meet");
    for (int64_t nap = 2; meet_now() < until; nap = nap < 20 ? nap * 2 : 20) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        meet_greeting greeting;
        if (fd < 0) {
            error_set(error, ZDS_ERR_IO, "socket: %s", strerror(errno));
            return -1;
        }
        bool there = connect(fd, (struct sockaddr *)&address, length) == 0;
        /* One that takes its leave before the greeting had met all ranks of an engine before. */
        if (there && hear_greeting(fd, &greeting, until)) {
            if (check_owner(m, fd, &m->pids[0], &greeting, error) == ZDS_OK)
                return fd;
            close(fd);
            return -1;
        }
        int reason = errno;
        close(fd);
        if (!there && reason != ECONNREFUSED && reason != EAGAIN && reason != EINTR) {
            error_set(error, ZDS_ERR_IO, "cannot connect to @%s: %s", address.sun_path + 1,
                      strerror(reason));
            return -1;
        }
        pause_ms(nap);
    }
    error_set(error, ZDS_ERR_PEER,
              "rank 0 did not come within %d ms (ZDS_TIMEOUT, or options.timeout_ms): nobody "
              "listens at MASTER_ADDR %s,"
              " MASTER_PORT %d for user %u on this machine, or the job there is complete",
              (int)m->timeout_ms, m->addr, (int)m->port, (unsigned)geteuid());
    return -1;
}

/* By either way, whatever rank 0 was told of its machine. */
static int connect_anywhere(meeting *m, int64_t until, zds_error *error)
{
    int fd;
    int64_t end;
    do {
        int64_t now = meet_now();
        fd = unix_connect(m, now + UNIX_MS < until ? now + UNIX_MS : until, NULL);
        end = meet_now() + TCP_MS < until ? meet_now() + TCP_MS : until;
        if (fd < 0)
            fd = meet_tcp_connect(m, end, error);
    } while (fd < 0 && end < until && meet_now() >= end);
    return fd;
}

static zds_status follow(meeting *m, int64_t until, zds_error *error)
{
    int fd = m->one_node   ? unix_connect(m, until, error)
             : m->anywhere ? connect_anywhere(m, until, error)
                           : meet_tcp_connect(m, until, error);
    if (fd < 0)
        return error ? error->status : ZDS_ERR_PEER;
    m->sockets[0] = fd;
    hello h = {.magic = MEET_MAGIC,
               .version = MEET_VERSION,
               .rank = m->rank,
               .world_size = m->size,
               .pid = getpid(),
               .local = m->local};
    memcpy(h.job, m->job, sizeof h.job);
    if (send(fd, &h, sizeof h, MSG_NOSIGNAL) != (ssize_t)sizeof h)
        return error_set(error, ZDS_ERR_PEER, "rank 0 died before all ranks were there");
    return ZDS_OK;
}

zds_status meet_all(meeting *m, int64_t until, zds_error *error)
{
    if (m->port < 1)
        return error_set(error, ZDS_ERR_INVALID,
                         "MASTER_ADDR and MASTER_PORT must be set and the same on all %d ranks:"
                         " start them with zds-run",
                         (int)m->size);
    return m->rank == 0 ? lead(m, until, error) : follow(m, until, error);
}

void meet_part(meeting *m)
{
    int32_t count = m->rank == 0 ? m->size : 1;
    for (int32_t r = 0; r < count; r++)
        if (m->sockets[r] >= 0) {
            close(m->sockets[r]);
            m->sockets[r] = -1;
        }
}
