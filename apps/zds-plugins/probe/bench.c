/* The host that a plugin under check sees, and what its instances leave behind. */
#include "bench.h"

#include <dirent.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "host/error.h"
#include "plugin/fault.h"
#include "ways.h"

/* Formats the line, so that a wrong format shows, and drops it: the values that are tried here are
 * odd ones, and plugins warn of such. */
static void host_log(const zds_host *host, int32_t level, const char *format, ...)
{
    (void)host, (void)level;
    va_list args;
    va_start(args, format);
    free(text_formatv(format, args));
    va_end(args);
}

/* Of several threads the last one's text is kept. */
static zds_status host_fail(const zds_host *host, zds_status status, const char *format, ...)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    bench *b = host->context;
    va_list args;
    va_start(args, format);
    char *text = text_formatv(format, args);
    va_end(args);
    pthread_mutex_lock(&lock);
    free(b->error);
    b->error = text;
    pthread_mutex_unlock(&lock);
    return status;
}

static void *host_alloc(const zds_host *host, size_t bytes, size_t align)
{
    (void)host;
    void *memory = NULL;
    if (posix_memalign(&memory, align < 64 ? 64 : align, bytes ? bytes : 1) != 0)
        return NULL;
    return memset(memory, 0, bytes);
}

static void *host_alloc_in(const zds_host *host, zds_device device, size_t bytes, size_t align)
{
    return device.space == ZDS_SPACE_HOST ? host_alloc(host, bytes, align) : NULL;
}

static void host_free(const zds_host *host, void *pointer)
{
    (void)host;
    free(pointer);
}

/* === parallel_for === */

typedef struct work {
    void (*body)(void *arg, size_t i);
    void *arg;
    size_t n;
    atomic_size_t next;
} work;

static void *work_on(void *arg)
{
    work *w = arg;
    for (size_t i; (i = atomic_fetch_add(&w->next, 1)) < w->n;)
        w->body(w->arg, i);
    return NULL;
}

static void host_parallel_for(const zds_host *host, size_t n, void (*body)(void *arg, size_t i),
                              void *arg)
{
    const bench *b = host->context;
    if (b->order != BENCH_THREADED) {
        for (size_t i = 0; i < n; i++)
            body(arg, b->order == BENCH_BACKWARD ? n - 1 - i : i);
        return;
    }
    work w = {.body = body, .arg = arg, .n = n};
    pthread_t threads[BENCH_THREADS];
    size_t started = 0;
    while (started < BENCH_THREADS && pthread_create(&threads[started], NULL, work_on, &w) == 0)
        started++;
    work_on(&w);
    for (size_t t = 0; t < started; t++)
        pthread_join(threads[t], NULL);
}

/* === life === */

void bench_init(bench *b, const zds_plugin *plugin)
{
    *b = (bench){.plugin = plugin};
    b->host = (zds_host){.struct_size = sizeof b->host,
                         .abi_minor = ZDS_ABI_MINOR,
                         .threads = BENCH_THREADS,
                         .context = b,
                         .log = host_log,
                         .fail = host_fail,
                         .alloc = host_alloc,
                         .free = host_free,
                         .parallel_for = host_parallel_for,
                         .alloc_in = host_alloc_in};
}

enum { GUARD = 0x5c };

void *bench_fill(bench_room *room, size_t size)
{
    memset(room, GUARD, sizeof *room);
    memset(room, 0, size);
    return memcpy(room, &size, sizeof size);
}

char *bench_filled(const bench_room *room, size_t size, void *to, const char *what)
{
    const unsigned char *bytes = (const unsigned char *)room;
    memcpy(to, bytes, size);
    for (size_t i = size; i < sizeof *room; i++)
        if (bytes[i] != GUARD)
            return fault_format("%s writes beyond the struct_size of what it fills", what);
    return NULL;
}

void bench_clear(bench *b)
{
    free(b->error);
    b->error = NULL;
}

char *bench_failure(const bench *b, const char *function, zds_status status)
{
    if (!b->error)
        return fault_format("%s returned \"%s\" without calling host->fail", function,
                            zds_status_name(status));
    return fault_format("%s returned \"%s\": %s", function, zds_status_name(status), b->error);
}

char *bench_event_fault(const zds_event *event)
{
    const size_t size = event->ops->struct_size;
    return size < ZDS_EVENT_OPS_1_0
               ? fault_format(
                     "struct_size of its event's zds_event_ops is %zu, less than the %zu of "
                     "ABI %d.0",
                     size, ZDS_EVENT_OPS_1_0, ZDS_ABI_MAJOR)
               : NULL;
}

char *bench_within(char *fault, const char *format, ...)
{
    if (!fault)
        return NULL;
    va_list args;
    va_start(args, format);
    char *words = text_formatv(format, args);
    va_end(args);
    char *text = fault_format("%s: %s", words ? words : "?", fault);
    free(words);
    fault_free(fault);
    return text;
}

char *bench_where;

void bench_at(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(bench_where, BENCH_WHERE, format, args);
    va_end(args);
}

void bench_also(const char *words)
{
    const size_t length = strlen(bench_where);
    snprintf(bench_where + length, BENCH_WHERE - length, "%s%s", length ? ", " : "", words);
}

/* === what is left behind === */

static size_t entries_of(const char *folder)
{
    DIR *dir = opendir(folder);
    size_t count = 0;
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

typedef struct traces {
    long pieces;
    size_t files, threads;
} traces;

static traces look(bench *b)
{
    bench_clear(b);
    return (traces){alloc_live(), entries_of("/proc/self/fd"), entries_of("/proc/self/task")};
}

/* Those of this process, and orphans of theirs. */
static bool any_children(void)
{
    siginfo_t info;
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

char *bench_leaks(bench *b, char *(*cycle)(bench *b))
{
    enum { CYCLES = 4 };
    const ways usual = ways_now();
    const bool had_children = any_children();
    char *fault = cycle(b); /* what a library keeps for good appears in the first two */
    if (!fault)
        fault = cycle(b);
    traces before = look(b);
    for (int i = 0; i < CYCLES && !fault; i++)
        fault = cycle(b);
    traces after = look(b);
    /* The kernel forgets a thread a moment after it was joined. */
    for (int i = 0; i < 100 && !fault && after.threads > before.threads; i++) {
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        after = look(b);
    }
    if (fault)
        return fault;
    if (after.threads > before.threads)
        return fault_format("%zu threads are left behind by %d instances",
                            after.threads - before.threads, CYCLES);
    if (after.files > before.files)
        return fault_format("%zu open files are left behind by %d instances",
                            after.files - before.files, CYCLES);
    if (after.pieces > before.pieces)
        return fault_format("%ld pieces of memory are left behind by %d instances, each of which "
                            "was created, used and destroyed",
                            after.pieces - before.pieces, CYCLES);
    if (!had_children && any_children())
        return fault_format("processes are left behind: whoever forks waits for the child");
    return ways_changed(&usual);
}
