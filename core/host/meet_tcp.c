/* How ranks of several nodes find each other: TCP at MASTER_ADDR, at MASTER_PORT or, where others
 * have it (a launcher's own store), one of the next ports. Rank 0 speaks first, so that a server of
 * another kind hears nothing that it does not know. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "host/error.h"
#include "host/meet.h"

enum {
    ADDRESSES = 4,
    BACKLOG = 1024,
    GREETING_MS = 1000, /* a server that says nothing for so long is no rank 0 */
    NAP_MS = 30
};

typedef struct target {
    struct sockaddr_storage address; /* port 0 */
    socklen_t length;
} target;

static void set_port(target *t, int32_t port)
{
    if (t->address.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)(void *)&t->address)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)(void *)&t->address)->sin_port = htons((uint16_t)port);
}

/* The addresses of a name; 0 with *reason set. */
static int resolve(const char *name, int flags, target *out, int *reason)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    struct addrinfo *list = NULL;
    int n = 0;
    *reason = getaddrinfo(name, NULL, &hints, &list);
    for (const struct addrinfo *a = *reason ? NULL : list; a && n < ADDRESSES; a = a->ai_next)
        if (a->ai_addrlen <= sizeof out->address) {
            memcpy(&out[n].address, a->ai_addr, a->ai_addrlen);
            out[n++].length = a->ai_addrlen;
        }
    if (list)
        freeaddrinfo(list);
    return n;
}

static bool is_literal(const char *name)
{
    target found[ADDRESSES];
    int reason;
    return strcmp(name, "localhost") == 0 || resolve(name, AI_NUMERICHOST, found, &reason) > 0;
}

void meet_tcp_watch(int fd)
{
    const int on = 1, idle = 2, interval = 1, count = 3;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* === attempts to reach rank 0 === */

typedef struct attempt {
    int fd; /* -1: none now */
    int64_t until;
    meet_greeting heard;
    size_t have;
} attempt;

static void start(attempt *a, target t, int32_t port)
{
    *a = (attempt){.fd = socket(t.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
                   .until = meet_now() + GREETING_MS};
    set_port(&t, port);
    if (a->fd >= 0 && connect(a->fd, (struct sockaddr *)&t.address, t.length) != 0 &&
        errno != EINPROGRESS) {
        close(a->fd);
        a->fd = -1;
    }
}

/* 1: a zds has greeted; 0: not yet; -1: this one will not. */
static int go_on(attempt *a)
{
    ssize_t n = recv(a->fd, (char *)&a->heard + a->have, sizeof a->heard - a->have, MSG_DONTWAIT);
    if (n > 0)
        a->have += (size_t)n;
    bool waits =
        n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ENOTCONN);
    if ((n <= 0 && !waits) || meet_now() >= a->until)
        return -1;
    if (a->have >= sizeof a->heard.magic && a->heard.magic != MEET_MAGIC)
        return -1;
    return a->have == sizeof a->heard;
}

static void end(attempt *a)
{
    if (a->fd >= 0)
        close(a->fd);
    a->fd = -1;
}

/* === rank 0 === */

static int listen_at(target t, int32_t port)
{
    const int on = 1, off = 0;
    int fd = socket(t.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    set_port(&t, port);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (t.address.ss_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, (struct sockaddr *)&t.address, t.length) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

/* Whether what has the port is a zds job that cannot be told from this one. */
static bool is_taken_by_us(const meeting *m, target t, int32_t port)
{
    attempt a;
    int state = 0;
    for (start(&a, t, port); a.fd >= 0 && state == 0;) {
        struct pollfd p = {.fd = a.fd, .events = POLLIN};
        (void)poll(&p, 1, NAP_MS);
        state = go_on(&a);
    }
    bool ours = state > 0 && meet_is_ours(m, &a.heard);
    end(&a);
    return ours;
}

/* Where rank 0 listens: at MASTER_ADDR itself if it is an address. A name may be bound to loopback
 * on the machine that has it, so then at all addresses. */
static int listen_targets(const meeting *m, target *out, zds_error *error)
{
    int reason, n = 0;
    if (is_literal(m->addr)) {
        n = resolve(m->addr, 0, out, &reason);
        if (!n)
            error_set(error, ZDS_ERR_IO, "MASTER_ADDR %s: %s", m->addr, gai_strerror(reason));
        return n;
    }
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)&out[0].address;
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)&out[1].address;
    memset(out, 0, 2 * sizeof *out);
    *six = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = in6addr_any};
    *four = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    out[0].length = sizeof *six;
    out[1].length = sizeof *four;
    return 2;
}

int meet_tcp_listen(const meeting *m, zds_error *error)
{
    target at[ADDRESSES];
    int count = listen_targets(m, at, error), reason = 0;
    for (int32_t k = 0; k < MEET_PORTS && m->port + k <= 65535 && count; k++)
        for (int i = 0; i < count; i++) {
            int fd = listen_at(at[i], m->port + k);
            if (fd >= 0)
                return fd;
            reason = errno;
            if (reason != EADDRINUSE)
                continue; /* this machine does not have the family or the address */
            if (is_taken_by_us(m, at[i], m->port + k)) {
                error_set(error, ZDS_ERR_IO,
                          "another job meets at MASTER_ADDR %s and MASTER_PORT %d; give this one"
                          " another MASTER_PORT",
                          m->addr, (int)m->port);
                return -1;
            }
            break; /* somebody else's: the next port */
        }
    if (count)
        error_set(error, ZDS_ERR_IO,
                  "rank 0 cannot listen at MASTER_ADDR %s, MASTER_PORT %d to %d: %s; is MASTER_ADDR"
                  " the address of the machine of rank 0?",
                  m->addr, (int)m->port, (int)m->port + MEET_PORTS - 1, strerror(reason));
    return -1;
}

/* === all others === */

/* One round over all addresses and ports: the connection that rank 0 has greeted, or -1. */
static int try_all(const meeting *m, attempt (*all)[MEET_PORTS], const target *at, int count,
                   int32_t *other_ranks)
{
    struct pollfd fds[ADDRESSES * MEET_PORTS];
    nfds_t n = 0;
    for (int i = 0; i < count; i++)
        for (int32_t k = 0; k < MEET_PORTS && m->port + k <= 65535; k++) {
            attempt *a = &all[i][k];
            if (a->fd < 0)
                start(a, at[i], m->port + k);
            if (a->fd >= 0)
                fds[n++] = (struct pollfd){.fd = a->fd, .events = POLLIN};
        }
    (void)poll(fds, n, NAP_MS);
    for (int i = 0; i < count; i++)
        for (int32_t k = 0; k < MEET_PORTS; k++) {
            attempt *a = &all[i][k];
            int state = a->fd < 0 ? 0 : go_on(a);
            if (state > 0 && meet_is_ours(m, &a->heard)) {
                int fd = a->fd;
                a->fd = -1;
                return fd;
            }
            if (state > 0)
                *other_ranks = a->heard.world_size;
            if (state)
                end(a);
        }
    return -1;
}

int meet_tcp_connect(const meeting *m, int64_t until, zds_error *error)
{
    attempt all[ADDRESSES][MEET_PORTS];
    target at[ADDRESSES];
    int32_t other_ranks = 0;
    int reason = 0, fd = -1, count = 0;
    for (int i = 0; i < ADDRESSES; i++)
        for (int32_t k = 0; k < MEET_PORTS; k++)
            all[i][k].fd = -1;
    while (fd < 0 && meet_now() < until) {
        if (!count)
            count = resolve(m->addr, 0, at, &reason);
        if (!count && reason != EAI_AGAIN)
            break;
        int64_t before = meet_now();
        fd = try_all(m, all, at, count, &other_ranks);
        if (fd < 0 && meet_now() - before < NAP_MS)
            nanosleep(&(struct timespec){0, NAP_MS * 1000000}, NULL);
    }
    for (int i = 0; i < ADDRESSES; i++)
        for (int32_t k = 0; k < MEET_PORTS; k++)
            end(&all[i][k]);
    if (fd >= 0) {
        meet_tcp_watch(fd);
        (void)fcntl(fd, F_SETFL, 0);
        return fd;
    }
    char other[80] = "";
    if (other_ranks)
        snprintf(other, sizeof other, "; another job, of %d ranks, meets there", (int)other_ranks);
    if (!count)
        error_set(error, ZDS_ERR_IO, "MASTER_ADDR %s: %s", m->addr, gai_strerror(reason));
    else
        error_set(error, ZDS_ERR_PEER,
                  "rank 0 did not come within %d ms (ZDS_TIMEOUT, or options.timeout_ms): nobody "
                  "answers as rank 0 at"
                  " MASTER_ADDR %s, MASTER_PORT %d to %d%s",
                  (int)m->timeout_ms, m->addr, (int)m->port, (int)m->port + MEET_PORTS - 1, other);
    return -1;
}
