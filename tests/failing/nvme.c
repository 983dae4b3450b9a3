/* Offload nvme where a call to the system, or an allocation, fails: each in turn, in each way that
 * it can. What must come of it is an error that names the rank and, of a file, its name; or the
 * right bytes. The calls are this program's own, which hand on to the C library's and liburing's.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "nvme_world.h"

#define EXPORTED __attribute__((visibility("default")))

/* === faults === */

typedef enum call {
    PREAD,
    PWRITE,
    FALLOCATE,
    OPENAT,
    MKDIRAT,
    FLOCK,
    FTRUNCATE,
    STATX,
    FSTATVFS,
    FDATASYNC,
    THREAD,
    RING_INIT,
    RING_SUBMIT,
    RING_WAIT, /* a completion's own result */
    CALLS
} call;
static const char *const call_names[] = {"pread",           "pwrite",
                                         "fallocate",       "openat",
                                         "mkdirat",         "flock",
                                         "ftruncate",       "statx",
                                         "fstatvfs",        "fdatasync",
                                         "pthread_create",  "io_uring_queue_init",
                                         "io_uring_submit", "__io_uring_get_cqe"};

enum { SHORT = -1, NOTHING = -2 }; /* beside errnos: half of it, or one byte less; 0 bytes */

static struct {
    call which;
    long at, every; /* the first that fails, and then every so many; 0: no more */
    int how;
    atomic_long count;
    bool no_ring, no_fallocate;
    atomic_bool held;      /* reads do not come back; of the ring: nothing does */
    atomic_llong clock_ms; /* ahead of the real one */
    /* Of the ring, for whoever looks: requests that the kernel has. */
    long submits, most_together;
    atomic_long in_flight;
    bool refilled; /* something was submitted while others were in flight, and some had ended */
    bool some_ended;
} fault = {.which = CALLS};

static bool fails(call which)
{
    if (fault.which != which || !fault.at)
        return false;
    const long n = atomic_fetch_add(&fault.count, 1) + 1;
    return n == fault.at || (fault.every && n > fault.at && (n - fault.at) % fault.every == 0);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Bytes of a transfer that does but a part; -1 and errno. */
static size_t lessened(size_t bytes)
{
    return fault.how == NOTHING ? 0
           : bytes > 8192       ? bytes / 2 + 100
           : bytes > 1          ? bytes - 1
                                : bytes;
}

static bool is_error(void)
{
    if (fault.how > 0)
        errno = fault.how;
    return fault.how > 0;
}

EXPORTED ssize_t pread(int fd, void *to, size_t bytes, off_t offset)
{
    while (atomic_load(&fault.held))
        usleep(1000);
    if (fails(PREAD)) {
        if (is_error())
            return -1;
        ssize_t got = fault.how == NOTHING ? 0 : NEXT(pread)(fd, to, bytes, offset);
        return got > 0 ? (ssize_t)lessened((size_t)got) : got;
    }
    return NEXT(pread)(fd, to, bytes, offset);
}

EXPORTED ssize_t pwrite(int fd, const void *from, size_t bytes, off_t offset)
{
    if (fails(PWRITE)) {
        if (is_error())
            return -1;
        ssize_t got = fault.how == NOTHING ? 0 : NEXT(pwrite)(fd, from, bytes, offset);
        return got > 0 ? (ssize_t)lessened((size_t)got) : got;
    }
    return NEXT(pwrite)(fd, from, bytes, offset);
}

/* While reads are held each look at the clock costs a second. */
EXPORTED int clock_gettime(clockid_t id, struct timespec *now)
{
    const int error = NEXT(clock_gettime)(id, now);
    now->tv_sec += atomic_load(&fault.clock_ms) / 1000;
    return error;
}

EXPORTED int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *lock,
                                    const struct timespec *till)
{
    (void)condition, (void)till;
    pthread_mutex_unlock(lock);
    usleep(200);
    if (atomic_load(&fault.held))
        atomic_fetch_add(&fault.clock_ms, 1000);
    pthread_mutex_lock(lock);
    return ETIMEDOUT;
}

#define FAILING(name, which, arguments, names)                                                     \
    EXPORTED int name arguments                                                                    \
    {                                                                                              \
        return fails(which) && is_error() ? -1 : NEXT(name) names;                                 \
    }
FAILING(mkdirat, MKDIRAT, (int fd, const char *name, mode_t mode), (fd, name, mode))
FAILING(flock, FLOCK, (int fd, int how), (fd, how))
FAILING(ftruncate, FTRUNCATE, (int fd, off_t bytes), (fd, bytes))
FAILING(fstatvfs, FSTATVFS, (int fd, struct statvfs *space), (fd, space))
FAILING(fdatasync, FDATASYNC, (int fd), (fd))
FAILING(statx, STATX,
        (int fd, const char *restrict name, int flags, unsigned mask, struct statx *restrict s),
        (fd, name, flags, mask, s))

EXPORTED int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    if (fault.no_fallocate) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return fails(FALLOCATE) && is_error() ? -1 : NEXT(fallocate)(fd, mode, offset, bytes);
}

EXPORTED int openat(int fd, const char *name, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    const mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails(OPENAT) && is_error() ? -1 : NEXT(openat)(fd, name, flags, mode);
}

EXPORTED int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*body)(void *),
                            void *arg)
{
    return fails(THREAD) ? fault.how : NEXT(pthread_create)(thread, how, body, arg);
}

EXPORTED int io_uring_queue_init(unsigned entries, struct io_uring *g, unsigned flags)
{
    if (fault.no_ring)
        return -ENOSYS;
    return fails(RING_INIT) ? -fault.how : NEXT(io_uring_queue_init)(entries, g, flags);
}

EXPORTED int io_uring_submit(struct io_uring *g)
{
    if (fails(RING_SUBMIT))
        return -fault.how;
    const int taken = NEXT(io_uring_submit)(g);
    fault.submits++;
    fault.in_flight += taken > 0 ? taken : 0;
    fault.refilled |= fault.some_ended && fault.in_flight > taken + 1; /* the eventfd is one */
    if (fault.in_flight > fault.most_together)
        fault.most_together = fault.in_flight;
    return taken;
}

/* Puts the end of the wait for the eventfd before others. False where there is none. */
static bool prefer_wake(struct io_uring *g)
{
    const unsigned head = *g->cq.khead, mask = *g->cq.kring_mask;
    for (unsigned i = 0; i < io_uring_cq_ready(g); i++) {
        struct io_uring_cqe *first = &g->cq.cqes[head & mask],
                            *other = &g->cq.cqes[(head + i) & mask], kept = *other;
        if (kept.user_data)
            continue;
        *other = *first;
        *first = kept;
        return true;
    }
    return false;
}

EXPORTED int __io_uring_get_cqe(struct io_uring *g, struct io_uring_cqe **cqe, unsigned submit,
                                unsigned wait, sigset_t *mask)
{
    while (atomic_load(&fault.held) && !prefer_wake(g)) {
        if (!wait)
            return -EAGAIN;
        usleep(1000);
    }
    const int error = NEXT(__io_uring_get_cqe)(g, cqe, submit, wait, mask);
    if (error)
        return error;
    fault.in_flight--;
    fault.some_ended = fault.in_flight > 1;
    if ((*cqe)->user_data && fails(RING_WAIT)) {
        if (fault.how > 0)
            (*cqe)->res = -fault.how;
        else if ((*cqe)->res > 0)
            (*cqe)->res = (int)lessened((size_t)(*cqe)->res);
    }
    return error;
}

/* === what is tried === */

enum { BYTES = 300000 + 5, PARTS = 3 };

/* Of one attempt, in memory that the parent sees. */
typedef struct outcome {
    zds_status status;
    char text[5000], logged[1000];
    long calls, allocations;
    bool ended, reached;
    bool names_file; /* a block was there */
} outcome;

typedef struct attempt {
    world w;
    outcome *o;
    zds_block blocks[2];
    char *memory;
    zds_event *events[2 * PARTS + 2];
    int event_count;
} attempt;

static bool failed(attempt *a, zds_status status)
{
    if (status && !a->o->status) {
        a->o->status = status;
        snprintf(a->o->text, sizeof a->o->text, "%s", a->w.error);
    }
    return status != ZDS_OK;
}

static zds_event *begin(attempt *a, const zds_block *from, void *memory, const zds_block *to,
                        uint64_t offset, uint64_t bytes, zds_event *wait)
{
    zds_event *done;
    if (!failed(a, world_begin(&a->w, from, memory, to, offset, bytes, wait, &done)))
        a->events[a->event_count++] = done;
    return done;
}

/* Written in parts, from memory of two alignments; from file to file; and read back in parts. */
static void copy_all(attempt *a)
{
    const uint64_t part = (BYTES / PARTS / 4096 + 1) * 4096;
    char *back = a->memory + 2 * (BYTES / 4096 + 2) * 4096;
    for (int way = 0; way < 2 && !a->o->status; way++) {
        char *from = a->memory + way;
        for (uint64_t i = 0; i < BYTES; i++)
            from[i] = (char)world_value(i, (uint64_t)way);
        memset(back, 1, BYTES + 1);
        zds_event *last = NULL;
        a->event_count = 0;
        for (uint64_t first = 0; first < BYTES && !a->o->status; first += part)
            last = begin(a, NULL, from + first, &a->blocks[0], first,
                         BYTES - first < part ? BYTES - first : part, last);
        if (!a->o->status) {
            zds_event *waits[] = {last}, *done = NULL;
            const zds_copy between = {.struct_size = sizeof between,
                                      .from = {.block = &a->blocks[0]},
                                      .to = {.block = &a->blocks[1]},
                                      .bytes = BYTES,
                                      .waits = waits,
                                      .wait_count = 1};
            if (!failed(a, a->w.ops->copy(a->w.self, &between, &done)))
                a->events[a->event_count++] = last = done;
        }
        for (uint64_t first = 0; first < BYTES && !a->o->status; first += part)
            begin(a, &a->blocks[1], back + way + first, NULL, first,
                  BYTES - first < part ? BYTES - first : part, last);
        bool good = !a->o->status;
        for (int i = a->event_count - 1; i >= 0; i--)
            good &= !failed(a, world_end(a->events[i]));
        for (uint64_t i = 0; i < BYTES && good; i++)
            NEED(back[way + (ptrdiff_t)i] == (char)world_value(i, (uint64_t)way),
                 "wrong in silence: byte %llu of way %d", (unsigned long long)i, way);
    }
}

static void run(outcome *o, const char *path, long fail_at)
{
    static attempt a;
    static const settings set = {
        .block_size = 16384, .queue_depth = 4, .intra_op_parallelism = 2, .overlap_events = true};
    a.o = o;
    a.w.fail_at = fail_at;
    snprintf(a.w.folder, sizeof a.w.folder, "%s", path);
    a.memory = aligned_alloc(4096, (size_t)4 * (BYTES / 4096 + 2) * 4096);
    if (!failed(&a, world_open(&a.w, &set))) {
        int made = 0;
        for (; made < 2 && !o->status; made++)
            if (failed(&a, a.w.ops->alloc(a.w.self, BYTES, &a.blocks[made])))
                break;
        if (!o->status)
            copy_all(&a);
        for (int i = 0; i < made; i++)
            a.w.ops->free(a.w.self, &a.blocks[i]);
    }
    if (a.w.self)
        a.w.ops->close(a.w.self);
    NEED(a.w.live == 0, "%ld allocations are left", a.w.live);
    snprintf(o->logged, sizeof o->logged, "%.900s", a.w.logged);
    o->calls = fault.count;
    o->allocations = a.w.allocations;
    o->ended = true;
}

/* In a process of its own; true if it ended well. */
static bool attempted(outcome *o, long fail_at)
{
    enum { PATIENCE_S = 60 };
    char path[] = "/tmp/zds-failing-XXXXXX", command[64];
    int how;
    memset(o, 0, sizeof *o);
    NEED(mkdtemp(path), "%s", strerror(errno));
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(PATIENCE_S);
        run(o, path, fail_at);
        _exit(0);
    }
    waitpid(child, &how, 0);
    snprintf(command, sizeof command, "rm -rf %s", path);
    const bool empty = rmdir(path) == 0;
    if (!empty && system(command) != 0)
        return false;
    if (how || !o->ended)
        fprintf(stderr, "it %s\n",
                !WIFSIGNALED(how)          ? "exits"
                : WTERMSIG(how) == SIGALRM ? "hangs"
                                           : "crashes");
    if (!empty)
        fprintf(stderr, "it leaves files behind\n");
    return how == 0 && o->ended && empty;
}

/* What an error must say. */
static bool speaks(const outcome *o)
{
    if (o->status == ZDS_ERR_MEMORY)
        return strstr(o->text, "memory") || strstr(o->text, "thread");
    if (o->status == ZDS_OK)
        return true;
    return o->status == ZDS_ERR_IO || o->status == ZDS_ERR_NOT_FOUND
               ? strstr(o->text, "rank 3") && strstr(o->text, "/tmp/zds-failing-") &&
                     strlen(o->text) > 60
               : false;
}

static int faults, tried, told;

static void one(outcome *o, const char *what)
{
    tried++;
    const bool good = attempted(o, 0);
    told += o->status != ZDS_OK;
    if (good && speaks(o))
        return;
    faults++;
    fprintf(stderr, "%s, number %ld%s, %s (%s): status %d, %s\n", call_names[fault.which], fault.at,
            fault.every ? " and further" : "",
            fault.how == SHORT     ? "short"
            : fault.how == NOTHING ? "nothing"
                                   : strerror(fault.how),
            what, (int)o->status, o->text);
}

/* Each call number `at` in each of the ways; `must`: it cannot go unnoticed. */
static void each(outcome *o, call which, const int *ways, size_t count, long stride,
                 const char *what)
{
    fault.which = which;
    fault.every = 0;
    fault.at = LONG_MAX;
    one(o, what);
    const long calls = o->calls;
    NEED(o->status == ZDS_OK, "without a fault: %s", o->text);
    NEED(calls > 0, "%s is never called %s", call_names[which], what);
    for (size_t k = 0; k < count; k++)
        for (long n = 1; n <= calls; n += stride) {
            fault.how = ways[k];
            fault.at = n;
            one(o, what);
            /* Disk errors of a transfer are never passed over. */
            if ((which == RING_WAIT || which == PREAD || which == PWRITE) &&
                (fault.how == EIO || fault.how == ENOSPC) && !o->status && what[0] != 'a') {
                faults++;
                fprintf(stderr, "%s number %ld fails, and nobody is told\n", call_names[which], n);
            }
        }
    fault.at = 0;
    printf("%s, %s: %ld calls, every %ld-th failed in %zu ways\n", call_names[which], what, calls,
           stride, count);
}

/* Over and over: every third call. */
static void often(outcome *o, call which, int how, const char *what, bool helps)
{
    fault.which = which;
    fault.how = how;
    fault.at = 2;
    fault.every = 3;
    one(o, what);
    if (helps && o->status) {
        faults++;
        fprintf(stderr, "%s: %s again and again is an error: %s\n", call_names[which],
                how < 0 ? "short" : strerror(how), o->text);
    }
    fault.at = fault.every = 0;
}

/* How requests come to the ring, as the options say. */
static void look_at_ring(bool single, bool overlap)
{
    enum { N = 1 << 20, DEPTH = 4 };
    const settings set = {.block_size = 4096,
                          .queue_depth = 2,
                          .intra_op_parallelism = 2,
                          .single_submit = single,
                          .overlap_events = overlap};
    char path[] = "/tmp/zds-failing-XXXXXX";
    NEED(mkdtemp(path), "%s", strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        static world w;
        zds_block block = {.struct_size = sizeof block};
        zds_event *done;
        char *memory = aligned_alloc(4096, N);
        memset(memory, 1, N);
        fault.which = CALLS;
        snprintf(w.folder, sizeof w.folder, "%s", path);
        NEED(!world_open(&w, &set) && !w.ops->alloc(w.self, N, &block), "%s", w.error);
        NEED(!world_begin(&w, NULL, memory, &block, 0, N, NULL, &done), "%s", w.error);
        NEED(!world_end(done), "%s", w.error);
        w.ops->free(w.self, &block);
        w.ops->close(w.self);
        NEED(fault.most_together >= DEPTH && fault.most_together <= DEPTH + 1,
             "%ld requests together", fault.most_together);
        if (single)
            NEED(fault.submits >= N / 4096, "%ld calls for %d requests", fault.submits, N / 4096);
        else
            NEED(fault.submits < N / 4096, "%ld calls for %d requests", fault.submits, N / 4096);
        NEED(overlap || !fault.refilled, "a batch was not waited for");
        _exit(0);
    }
    int how;
    waitpid(child, &how, 0);
    NEED(how == 0 && rmdir(path) == 0, "single_submit %d, overlap_events %d", single, overlap);
}

/* Copies begin beside one whose requests do not come back. */
static void look_at_company(void)
{
    enum { COPIES = 3 };
    const settings set = {
        .block_size = 4096, .queue_depth = 8, .intra_op_parallelism = 1, .overlap_events = true};
    static world w = {.folder = "/tmp/zds-failing-XXXXXX"};
    static char memory[4096];
    zds_block block = {.struct_size = sizeof block};
    zds_event *reads[COPIES];
    NEED(mkdtemp(w.folder), "%s", strerror(errno));
    fault.which = CALLS;
    atomic_store(&fault.in_flight, 0);
    NEED(!world_open(&w, &set) && !w.ops->alloc(w.self, 4096, &block), "%s", w.error);
    atomic_store(&fault.held, true);
    for (int i = 0; i < COPIES; i++) {
        NEED(!world_begin(&w, &block, memory, NULL, 0, 4096, NULL, &reads[i]), "%s", w.error);
        for (int ms = 0; atomic_load(&fault.in_flight) < i + 2; ms++) { /* and the eventfd */
            NEED(ms < 20000, "copy %d was not begun", i);
            usleep(1000);
        }
    }
    atomic_store(&fault.held, false);
    for (int i = 0; i < COPIES; i++)
        NEED(!world_end(reads[i]), "%s", w.error);
    w.ops->free(w.self, &block);
    w.ops->close(w.self);
    NEED(rmdir(w.folder) == 0, "%s", strerror(errno));
}

static bool was_logged(world *w, const char *part)
{
    pthread_mutex_lock(&w->lock);
    const bool found = strstr(w->logged, part) != NULL;
    pthread_mutex_unlock(&w->lock);
    return found;
}

/* A read that does not come back is told of each minute, while nobody waits for it. */
static void look_at_warnings(void)
{
    enum { N = 12288 };
    const settings set = {
        .block_size = 4096, .queue_depth = 1, .intra_op_parallelism = 1, .overlap_events = true};
    static world w = {.folder = "/tmp/zds-failing-XXXXXX"};
    static char memory[N];
    zds_block block = {.struct_size = sizeof block};
    zds_event *reads[2];
    NEED(mkdtemp(w.folder), "%s", strerror(errno));
    fault.no_ring = true;
    fault.which = CALLS;
    NEED(!world_open(&w, &set) && !w.ops->alloc(w.self, N, &block), "%s", w.error);
    atomic_store(&fault.held, true);
    for (int i = 0; i < 2; i++)
        NEED(!world_begin(&w, &block, memory, NULL, 0, 8192, NULL, &reads[i]), "%s", w.error);
    while (!was_logged(&w, "has taken 60 s"))
        usleep(1000);
    NEED(was_logged(&w, "a read of 8192 bytes at 0 of /tmp/zds-failing-") &&
             was_logged(&w, "/block-1") && was_logged(&w, "1 more copies wait"),
         "%s", w.logged);
    while (!was_logged(&w, "has taken 120 s"))
        usleep(1000);
    atomic_store(&fault.held, false);
    NEED(!world_end(reads[0]) && !world_end(reads[1]), "%s", w.error);
    w.ops->free(w.self, &block);
    w.ops->close(w.self);
    NEED(rmdir(w.folder) == 0, "%s", strerror(errno));
    fault.no_ring = false;
}

int main(void)
{
    static const int disk[] = {EIO, ENOSPC, SHORT, NOTHING, EINTR, EAGAIN},
                     files[] = {ENOSPC, EIO, EINTR}, open_ways[] = {EMFILE, EACCES, ENOSPC, ENOENT},
                     space[] = {EIO}, rings[] = {ENOSYS, EPERM, ENOMEM, EMFILE},
                     threads[] = {EAGAIN}, submits[] = {EBUSY, EAGAIN, EINTR, EBADF};
    outcome *o = mmap(NULL, sizeof *o, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
#define EACH(which, ways, stride, what)                                                            \
    each(o, which, ways, sizeof(ways) / sizeof *(ways), stride, what)
    EACH(OPENAT, open_ways, 1, "with io_uring");
    EACH(MKDIRAT, open_ways, 1, "with io_uring");
    EACH(FLOCK, open_ways, 1, "with io_uring");
    EACH(FSTATVFS, space, 1, "with io_uring");
    EACH(STATX, space, 1, "with io_uring");
    EACH(FALLOCATE, files, 1, "with io_uring");
    EACH(RING_INIT, rings, 1, "with io_uring");
    NEED(strstr(o->logged, "io_uring") && strstr(o->logged, strerror(EMFILE)), "%s", o->logged);
    EACH(THREAD, threads, 1, "with io_uring");
    EACH(RING_SUBMIT, submits, 3, "with io_uring");
    EACH(RING_WAIT, disk, 2, "with io_uring");
    often(o, RING_WAIT, SHORT, "with io_uring", true);
    often(o, RING_WAIT, EINTR, "with io_uring", true);
    often(o, RING_WAIT, EAGAIN, "with io_uring", true);
    often(o, RING_WAIT, EIO, "with io_uring", false);
    often(o, RING_SUBMIT, EAGAIN, "with io_uring", true);
    fault.no_ring = true;
    EACH(THREAD, threads, 1, "with threads");
    EACH(PREAD, disk, 2, "with threads");
    EACH(PWRITE, disk, 2, "with threads");
    often(o, PREAD, SHORT, "with threads", true);
    often(o, PWRITE, SHORT, "with threads", true);
    often(o, PREAD, EAGAIN, "with threads", true);
    often(o, PWRITE, EINTR, "with threads", true);
    fault.no_fallocate = true; /* zeros are written */
    EACH(PWRITE, disk, 3, "as zeros and with threads");
    EACH(FDATASYNC, files, 1, "as zeros and with threads");
    fault.no_fallocate = fault.no_ring = false;

    fault.which = CALLS;
    NEED(attempted(o, 0) && !o->status, "%s", o->text);
    const long allocations = o->allocations;
    for (int no_ring = 0; no_ring < 2; no_ring++)
        for (long n = 1; n <= allocations; n++) {
            fault.no_ring = no_ring;
            tried++;
            const bool good = attempted(o, n);
            told += o->status != ZDS_OK;
            if (good && (o->status == ZDS_OK || o->status == ZDS_ERR_MEMORY) && speaks(o))
                continue;
            faults++;
            fprintf(stderr, "allocation %ld: status %d, %s\n", n, (int)o->status, o->text);
        }
    fault.no_ring = false;
    for (int single = 0; single < 2; single++)
        for (int overlap = 0; overlap < 2; overlap++)
            look_at_ring(single, overlap);
    look_at_company();
    look_at_warnings();
    printf("%d attempts, %d with an error, %d faults\n", tried, told, faults);
    return faults || told < tried / 4;
}
