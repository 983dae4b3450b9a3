/* The gathers of the first exchange, over the connections of meet.c. */
#include "host/bootstrap.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "host/error.h"
#include "host/meet.h"
#include "host/sized.h"
#include "zds/zds.h"

enum {
    LONGEST_TEXT = 1024,
    PATIENCE_MS = 2000,
    JOIN_MS = 60000 /* for all ranks to come, at most */
};

struct bootstrap {
    zds_bootstrap offered;
    meeting meeting;
    bool met, finished;
    uint32_t number; /* gathers */
    zds_status status;
    char text[LONGEST_TEXT]; /* of the failure that ended it */
};

/* What has been read of one rank's message. */
typedef struct inbox {
    meet_frame frame;
    size_t have; /* bytes of frame and payload */
    char *payload;
    bool complete;
} inbox;

static zds_status keep_failure(bootstrap *b, zds_status status, zds_error *error)
{
    b->status = status;
    snprintf(b->text, sizeof b->text, "%s", error->text ? error->text : "there is no memory");
    return status;
}

/* === one message === */

/* 1: more has come; 0: nothing now; -1: the other side is gone. Never reads past the message. */
static int take(int fd, inbox *in, size_t expected)
{
    bool head = in->have < sizeof in->frame;
    char *to = head ? (char *)&in->frame + in->have : in->payload + (in->have - sizeof in->frame);
    size_t want = head ? sizeof in->frame - in->have : sizeof in->frame + expected - in->have;
    ssize_t n = recv(fd, to, want, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return 0;
    if (n <= 0)
        return -1;
    in->have += (size_t)n;
    return 1;
}

static int wait_for(int fd, short events, int64_t until)
{
    struct pollfd p = {.fd = fd, .events = events};
    int64_t left = until - meet_now();
    int n = left > 0 ? poll(&p, 1, left < 1000 ? (int)left : 1000) : 0;
    if (n < 0 && errno == EINTR)
        return 1;
    return left <= 0 ? 0 : n < 0 ? -1 : 1;
}

/* False if the other side is gone or takes too long. */
static bool give(int fd, const void *bytes, size_t count, int64_t until)
{
    const char *at = bytes;
    while (count) {
        ssize_t n = send(fd, at, count, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            return false;
        if (n < 0 && wait_for(fd, POLLOUT, until) <= 0)
            return false;
        if (n > 0) {
            at += n;
            count -= (size_t)n;
        }
    }
    return true;
}

/* === rank 0 === */

static void list_absent(const bootstrap *b, const inbox *in, char *text, size_t size)
{
    size_t used = 0;
    text[0] = 0;
    for (int32_t r = 1; r < b->meeting.size && used + 16 < size; r++)
        if (!in[r].complete)
            used += (size_t)snprintf(text + used, size - used, "%s%d", used ? ", " : "", (int)r);
}

/* Reads what rank r has to say. */
static zds_status hear(bootstrap *b, inbox *in, int32_t r, size_t bytes, zds_error *error)
{
    int more;
    while (!in->complete && (more = take(b->meeting.sockets[r], in, bytes)) != 0) {
        if (more < 0)
            return error_set(error, ZDS_ERR_PEER, "rank %d (pid %d) died while the ranks met",
                             (int)r, (int)b->meeting.pids[r]);
        if (in->have == sizeof in->frame) {
            const meet_frame *f = &in->frame;
            if (f->magic != MEET_MAGIC || f->bytes > ZDS_BOOTSTRAP_MOST)
                return error_set(error, ZDS_ERR_PEER, "rank %d sent what no zds sends", (int)r);
            if (f->number != b->number || f->bytes != bytes)
                return error_set(error, ZDS_ERR_DIVERGED,
                                 "ranks exchange different things before they communicate: rank 0"
                                 " %zu bytes, rank %d %llu; do all run the same zds and plugin?",
                                 bytes, (int)r, (unsigned long long)f->bytes);
        }
        in->complete = in->have == sizeof in->frame + bytes;
    }
    return ZDS_OK;
}

static zds_status collect(bootstrap *b, inbox *in, size_t bytes, int64_t until, zds_error *error)
{
    const meeting *m = &b->meeting;
    struct pollfd *fds = calloc((size_t)m->size, sizeof *fds);
    if (!fds)
        return error_set(error, ZDS_ERR_MEMORY, "no memory to wait for %d ranks", (int)m->size);
    zds_status status = ZDS_OK;
    while (!status) {
        nfds_t n = 0;
        for (int32_t r = 1; r < m->size && !status; r++) {
            status = hear(b, &in[r], r, bytes, error);
            if (!in[r].complete)
                fds[n++] = (struct pollfd){.fd = m->sockets[r], .events = POLLIN};
        }
        if (status || !n)
            break;
        int64_t left = until - meet_now();
        if (left <= 0) {
            char absent[200];
            list_absent(b, in, absent, sizeof absent);
            status = error_set(error, ZDS_ERR_PEER,
                               "rank(s) %s silent for %d ms (ZDS_TIMEOUT, or options.timeout_ms) "
                               "while the ranks met",
                               absent, (int)m->timeout_ms);
        } else if (poll(fds, n, left < 1000 ? (int)left : 1000) < 0 && errno != EINTR) {
            status = error_set(error, ZDS_ERR_IO, "poll: %s", strerror(errno));
        }
    }
    free(fds);
    return status;
}

static zds_status lead(bootstrap *b, const void *mine, size_t bytes, char *all, int64_t until,
                       zds_error *error)
{
    const meeting *m = &b->meeting;
    inbox *in = calloc((size_t)m->size, sizeof *in);
    if (!in)
        return error_set(error, ZDS_ERR_MEMORY, "no memory to hear %d ranks", (int)m->size);
    memcpy(all, mine, bytes);
    for (int32_t r = 1; r < m->size; r++)
        in[r].payload = all + (size_t)r * bytes;
    zds_status status = collect(b, in, bytes, until, error);
    free(in);
    meet_frame head = {.magic = MEET_MAGIC, .number = b->number, .bytes = bytes * (size_t)m->size};
    for (int32_t r = 1; r < m->size; r++) {
        if (status)
            meet_refuse(m->sockets[r], b->number, status, error && error->text ? error->text : "");
        else if (!give(m->sockets[r], &head, sizeof head, until) ||
                 !give(m->sockets[r], all, head.bytes, until))
            status = error_set(error, ZDS_ERR_PEER, "rank %d (pid %d) died while the ranks met",
                               (int)r, (int)m->pids[r]);
    }
    return status;
}

/* === all others === */

/* What is wrong with rank 0's answer once its head is there. */
static zds_status check_answer(bootstrap *b, const meet_frame *f, size_t bytes, zds_error *error)
{
    bool right =
        f->magic == MEET_MAGIC &&
        (f->status ? f->status > ZDS_OK && f->status <= ZDS_ERR_INTERNAL && f->bytes < LONGEST_TEXT
                   : f->number == b->number && f->bytes == bytes);
    return right ? ZDS_OK
                 : error_set(error, ZDS_ERR_PEER,
                             "what answers at MASTER_ADDR %s, MASTER_PORT %d is not rank 0 of this"
                             " job",
                             b->meeting.addr, (int)b->meeting.port);
}

static zds_status await_answer(bootstrap *b, char *all, size_t bytes, int64_t until,
                               zds_error *error)
{
    const meeting *m = &b->meeting;
    char text[LONGEST_TEXT] = "";
    inbox in = {.payload = all};
    size_t expected = bytes;
    while (!in.complete) {
        int more = take(m->sockets[0], &in, expected);
        if (more < 0)
            return error_set(error, ZDS_ERR_PEER, "rank 0 (pid %d) died while the ranks met",
                             (int)m->pids[0]);
        if (more && in.have == sizeof in.frame) {
            zds_status status = check_answer(b, &in.frame, bytes, error);
            if (status)
                return status;
            expected = in.frame.bytes;
            in.payload = in.frame.status ? text : all;
        }
        in.complete = in.have >= sizeof in.frame && in.have == sizeof in.frame + expected;
        int go_on = more || in.complete ? 1 : wait_for(m->sockets[0], POLLIN, until);
        if (go_on < 0)
            return error_set(error, ZDS_ERR_IO, "poll: %s", strerror(errno));
        if (!go_on)
            return error_set(
                error, ZDS_ERR_PEER,
                "rank 0 did not answer within %d ms (ZDS_TIMEOUT, or options.timeout_ms)",
                (int)m->timeout_ms);
    }
    for (char *c = text; *c; c++) /* it is printed, and may be anybody's */
        *c = iscntrl((unsigned char)*c) ? '?' : *c;
    return in.frame.status ? error_set(error, in.frame.status, "%s", text) : ZDS_OK;
}

static zds_status follow(bootstrap *b, const void *mine, size_t bytes, char *all, int64_t until,
                         zds_error *error)
{
    int fd = b->meeting.sockets[0];
    meet_frame head = {.magic = MEET_MAGIC, .number = b->number, .bytes = bytes};
    /* Where rank 0 has refused us, it says so although it does not listen any more. */
    bool said = give(fd, &head, sizeof head, until) && give(fd, mine, bytes, until);
    (void)said;
    /* Rank 0 gives up after its own timeout and says who is missing: wait a little longer. */
    return await_answer(b, all, bytes * (size_t)b->meeting.size, until + PATIENCE_MS, error);
}

/* === its life === */

zds_status bootstrap_gather(bootstrap *b, const void *mine, size_t bytes, void *all,
                            zds_error *error)
{
    meeting *m = &b->meeting;
    if (!bytes || bytes > ZDS_BOOTSTRAP_MOST)
        return error_set(error, ZDS_ERR_INVALID,
                         "the bootstrap gathers 1 to %d bytes a rank, not %zu", ZDS_BOOTSTRAP_MOST,
                         bytes);
    if (b->finished)
        return error_set(error, ZDS_ERR_INVALID, "the bootstrap gathers only while init runs");
    if (b->status)
        return error_set(error, b->status, "%s", b->text);
    if (m->size == 1) {
        memcpy(all, mine, bytes);
        return ZDS_OK;
    }
    zds_error own = ZDS_ERROR_INIT;
    int64_t until = meet_now() + m->timeout_ms;
    zds_status status = b->met ? ZDS_OK : meet_all(m, until, &own);
    b->met = true;
    b->number++;
    if (!status)
        status = m->rank == 0 ? lead(b, mine, bytes, all, until, &own)
                              : follow(b, mine, bytes, all, until, &own);
    if (status) {
        keep_failure(b, status, &own);
        error_set(error, status, "%s", b->text);
        zds_error_clear(&own);
        meet_part(m);
    }
    return status;
}

static zds_status offered_gather(const zds_bootstrap *offered, const zds_host *host,
                                 const void *mine, size_t bytes, void *all)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = bootstrap_gather(offered->context, mine, bytes, all, &error);
    if (status)
        host->fail(host, status, "%s", error.text ? error.text : "no memory");
    zds_error_clear(&error);
    return status;
}

/* What the launcher calls its job: the same on all ranks of it, and different for each. */
static void read_job(char *job, size_t size)
{
    static const char *const names[] = {"TORCHELASTIC_RUN_ID", "PMIX_NAMESPACE", "PMI_JOBID"};
    job[0] = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names && !job[0]; i++) {
        const char *value = getenv(names[i]);
        snprintf(job, size, "%s", value ? value : "");
    }
}

bootstrap *bootstrap_open(const zds_comm_env *env)
{
    bootstrap *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    meeting *m = &b->meeting;
    m->rank = env->rank;
    m->size = env->world_size;
    m->one_node = env->local_world_size == env->world_size;
    m->anywhere = env->local_world_size < 1;
    m->local = (meet_local){.rank = env->local_rank, .size = env->local_world_size};
    launch_host_identity(m->local.host, sizeof m->local.host);
    m->timeout_ms = env->timeout_ms > 0 && env->timeout_ms < JOIN_MS ? env->timeout_ms : JOIN_MS;
    m->port = env->master_port;
    snprintf(m->addr, sizeof m->addr, "%s", env->master_addr ? env->master_addr : "127.0.0.1");
    read_job(m->job, sizeof m->job);
    size_t count = m->rank == 0 ? (size_t)m->size : 1;
    m->sockets = malloc(count * sizeof *m->sockets);
    m->pids = calloc(count, sizeof *m->pids);
    m->locals = calloc(count, sizeof *m->locals);
    if (!m->sockets || !m->pids || !m->locals) {
        free(m->sockets);
        free(m->pids);
        free(m->locals);
        free(b);
        return NULL;
    }
    for (size_t i = 0; i < count; i++)
        m->sockets[i] = -1;
    b->offered = (zds_bootstrap){
        .struct_size = sizeof b->offered, .context = b, .all_gather = offered_gather};
    return b;
}

const zds_bootstrap *bootstrap_offer(bootstrap *b)
{
    return &b->offered;
}

void bootstrap_finish(bootstrap *b)
{
    b->finished = true;
    meet_part(&b->meeting);
}

void bootstrap_close(bootstrap *b)
{
    if (!b)
        return;
    meet_part(&b->meeting);
    meet_release(&b->meeting);
    free(b->meeting.sockets);
    free(b->meeting.pids);
    free(b->meeting.locals);
    free(b);
}

zds_status zds_bootstrap_open(const zds_comm_env *env, const zds_bootstrap **out, zds_error *error)
{
    *out = NULL;
    if (!sized_reaches(env, ZDS_COMM_ENV_1_0))
        return error_set(error, ZDS_ERR_INVALID, SIZED_TOO_SHORT, "zds_comm_env", sized_told(env),
                         ZDS_COMM_ENV_1_0);
    if (env->world_size < 1 || env->rank < 0 || env->rank >= env->world_size)
        return error_set(error, ZDS_ERR_INVALID, "rank %d of %d does not exist", (int)env->rank,
                         (int)env->world_size);
    bootstrap *b = bootstrap_open(env);
    if (!b)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the ranks' first exchange");
    *out = bootstrap_offer(b);
    return ZDS_OK;
}

void zds_bootstrap_close(const zds_bootstrap *offered)
{
    if (offered)
        bootstrap_close(offered->context);
}
