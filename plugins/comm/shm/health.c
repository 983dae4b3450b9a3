/* Sleeping until a peer has news, and finding out that none will come: a peer that died, left, gave
 * up, or is silent for too long. */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "comm/shm/shm.h"

enum {
    CHECK_MS = 20,  /* between looks at the peers' processes */
    ABSENT_MS = 500 /* a caller that did not ask for so long was not waiting */
};

int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* === sleeping === */

void wake_rank(comm *c, int32_t r)
{
    slot *s = &c->slots[r];
    /* Sequentially consistent, as the sleeper's two steps are: either it sees the new count, or
     * this sees that it sleeps. */
    atomic_fetch_add(&s->wake, 1);
    if (atomic_load(&s->sleeping))
        syscall(SYS_futex, &s->wake, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void wake_all(comm *c)
{
    for (int32_t r = 0; r < c->size; r++)
        if (r != c->rank)
            wake_rank(c, r);
}

void sleep_until_woken(comm *c, uint32_t seen, int32_t ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    syscall(SYS_futex, &c->slots[c->rank].wake, FUTEX_WAIT, seen, &t, NULL, 0);
}

/* === failures === */

void record_failure(job *j, zds_status status, const char *text)
{
    job_header *h = j->header;
    uint32_t none = RECORD_NONE;
    if (!atomic_compare_exchange_strong(&h->record, &none, RECORD_WRITING))
        return; /* the first failure is the cause of the others */
    h->record_status = status;
    h->record_rank = j->rank;
    snprintf(h->record_text, sizeof h->record_text, "%s", text);
    atomic_store(&h->record, RECORD_SET);
}

bool health_adopt(comm *c)
{
    job_header *h = c->job->header;
    if (atomic_load(&h->record) != RECORD_SET)
        return false;
    int32_t status = h->record_status;
    c->status = status > ZDS_OK && status <= ZDS_ERR_INTERNAL ? status : ZDS_ERR_PEER;
    if (h->record_rank == c->job->rank)
        snprintf(c->text, sizeof c->text, "%.*s", (int)sizeof h->record_text - 1, h->record_text);
    else
        snprintf(c->text, sizeof c->text, "%.*s (reported by rank %d)",
                 (int)sizeof h->record_text - 1, h->record_text, (int)h->record_rank);
    return true;
}

zds_status comm_error(const comm *c)
{
    return c->host->fail(c->host, c->status, "%s", c->text);
}

zds_status comm_fail(comm *c, zds_status status, const char *format, ...)
{
    char text[sizeof c->job->header->record_text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    record_failure(c->job, status, text);
    if (!health_adopt(c)) { /* another rank is just writing */
        c->status = status;
        snprintf(c->text, sizeof c->text, "%s", text);
    }
    wake_all(c);
    return c->status;
}

/* === peers === */

void health_open(job *j)
{
    for (int32_t r = 0; r < j->size; r++) {
        int32_t pid = j->header->pid[r];
        /* Ranks that are threads of one process end together. Without pidfds (an old kernel, a
         * sandbox) the sockets to and from rank 0 still tell, and the timeout. */
        if (r != j->rank && pid > 0 && pid != getpid())
            j->pidfds[r] = (int)syscall(SYS_pidfd_open, pid, 0);
    }
}

void health_close(job *j)
{
    for (int32_t r = 0; r < j->size; r++)
        if (j->pidfds[r] >= 0)
            close(j->pidfds[r]);
}

static bool ended(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return fd >= 0 && poll(&p, 1, 0) > 0;
}

int32_t health_find_dead(const comm *c)
{
    const job *j = c->job;
    for (int32_t i = 0; i < c->size; i++) {
        int32_t r = c->world_rank[i];
        if (r == j->rank || atomic_load(&j->header->gone[r]))
            continue;
        bool dead = ended(j->pidfds[r]) || ((r == 0 || j->rank == 0) && ended(j->sockets[r]));
        if (dead && !atomic_load(&j->header->gone[r])) /* it may have left between the two */
            return r;
    }
    return -1;
}

/* True if operation `o` cannot go on without rank r. */
static bool lags(const comm *c, const op *o, int32_t r)
{
    if (r == c->rank)
        return false;
    if (o->kind == OP_SEND || o->kind == OP_RECV)
        return r == o->coll.peer;
    const slot *s = &c->slots[r];
    if (!o->posted)
        return atomic_load(&s->done) + RING < o->seq;
    if (!work_needs(c, o, r) && !work_is_reader(c, o, r))
        return false;
    return atomic_load(&s->posted) < o->seq || atomic_load(&s->read) < o->seq;
}

bool health_has_left(const comm *c, int32_t r)
{
    return r != c->rank &&
           (atomic_load(&c->slots[r].left) || atomic_load(&c->job->header->gone[c->world_rank[r]]));
}

/* "2 s", or "500 ms". */
static const char *shown(int64_t ms, char text[32])
{
    bool whole = ms >= 1000;
    snprintf(text, 32, "%lld %s", (long long)(whole ? ms / 1000 : ms), whole ? "s" : "ms");
    return text;
}

void health_bear(comm *c, int64_t silent, const char *ranks, const char *what)
{
    const job *j = c->job;
    const zds_host *host = j->host;
    if (silent > j->timeout_ms) {
        comm_fail(c, ZDS_ERR_PEER,
                  "rank(s) %s silent for %d ms (ZDS_TIMEOUT, or options.timeout_ms) while rank %d "
                  "waits for %s",
                  ranks, (int)j->timeout_ms, (int)j->rank, what);
        return;
    }
    if (silent < c->warned) /* there was news in between */
        c->warned = 0;
    if (silent - c->warned < j->warn_ms)
        return;
    c->warned = silent;
    char now[32], then[32];
    host->log(host, ZDS_LOG_WARNING,
              "rank(s) %s silent for %s while rank %d waits for %s; an error after %s "
              "(ZDS_TIMEOUT, or options.timeout_ms)",
              ranks, shown(silent, now), (int)j->rank, what, shown(j->timeout_ms, then));
}

/* How far a rank has come, the weightiest first: what counts no further than `seq`; and whether it
 * only waits. */
static uint64_t has_come(const slot *s, int kind, uint64_t seq)
{
    uint64_t n = kind == 0 ? atomic_load(&s->posted) : atomic_load(&s->half);
    return kind == 2 ? atomic_load(&s->waits) : n < seq ? n : seq;
}

/* Who waits in an operation waits for those that have not come to it. */
static void add_awaited(const comm *c, bool *behind)
{
    for (int32_t r = 0; r < c->size; r++) {
        const slot *s = &c->slots[r];
        uint64_t posted = atomic_load(&s->posted);
        for (int32_t q = 0;
             behind[r] && atomic_load(&s->waits) && posted > atomic_load(&s->done) && q < c->size;
             q++)
            behind[q] |= q != c->rank && atomic_load(&c->slots[q].posted) < posted;
    }
}

void health_list_behind(const comm *c, bool *behind, uint64_t seq, char *text, size_t size)
{
    uint64_t come[MAX_RANKS];
    size_t used = 0;
    add_awaited(c, behind);
    for (int kind = 0; kind < 3; kind++) {
        uint64_t least = UINT64_MAX;
        for (int32_t r = 0; r < c->size; r++) {
            come[r] = behind[r] ? has_come(&c->slots[r], kind, seq) : UINT64_MAX;
            least = come[r] < least ? come[r] : least;
        }
        for (int32_t r = 0; r < c->size; r++)
            behind[r] = behind[r] && come[r] == least;
    }
    text[0] = 0;
    for (int32_t r = 0; r < c->size && used + 8 < size; r++)
        if (behind[r])
            used += (size_t)snprintf(text + used, size - used, "%s%d", used ? ", " : "",
                                     (int)c->world_rank[r]);
}

static void check_silence(comm *c, const op *o, int64_t now)
{
    char list[128], text[160];
    bool behind[MAX_RANKS], any = false;
    for (int32_t r = 0; r < c->size; r++) {
        bool left = health_has_left(c, r);
        if (left)
            progress(c); /* with the last that it did, which may have come after the look before */
        if (o->done || c->status)
            return;
        behind[r] = lags(c, o, r);
        any |= behind[r];
        if (behind[r] && left) {
            comm_fail(c, ZDS_ERR_PEER,
                      "rank %d closed the communicator while rank %d waits for its part of %s",
                      (int)c->world_rank[r], (int)c->job->rank, op_text(o, text, sizeof text));
            return;
        }
    }
    if (!any)
        return;
    bool message = o->kind == OP_SEND || o->kind == OP_RECV;
    health_list_behind(c, behind, message ? UINT64_MAX : o->seq, list, sizeof list);
    health_bear(c, now - c->last_advance, list, op_text(o, text, sizeof text));
}

void health_check(comm *c, const op *waiting)
{
    if (c->status)
        return;
    int64_t now = now_ms();
    if (now - c->last_try > ABSENT_MS)
        c->last_advance = now;
    c->last_try = now;
    if (now - c->last_check < CHECK_MS) {
        if (health_adopt(c))
            return;
    } else {
        c->last_check = now;
        int32_t dead = health_find_dead(c);
        /* Who noticed first may have left already: its record comes before its own absence. */
        if (health_adopt(c))
            return;
        if (dead >= 0) {
            char text[160];
            comm_fail(c, ZDS_ERR_PEER, "rank %d (pid %d) died while rank %d waits for %s",
                      (int)dead, (int)c->job->header->pid[dead], (int)c->job->rank,
                      op_text(waiting, text, sizeof text));
            return;
        }
    }
    check_silence(c, waiting, now);
}
