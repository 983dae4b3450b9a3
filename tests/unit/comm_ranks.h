/* Ranks for the tests of comm plugins: a host without the engine, and several processes that each
 * open the plugin and run one function. */
#ifndef TESTS_UNIT_COMM_RANKS_H
#define TESTS_UNIT_COMM_RANKS_H

#include <dlfcn.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/bootstrap.h"
#include "zds/plugin.h"

static _Thread_local char last_error[1024];

static void host_log(const zds_host *host, int32_t level, const char *format, ...)
{
    (void)host;
    (void)level;
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static zds_status host_fail(const zds_host *host, zds_status status, const char *format, ...)
{
    (void)host;
    va_list args;
    va_start(args, format);
    vsnprintf(last_error, sizeof last_error, format, args);
    va_end(args);
    return status;
}

static void *host_alloc(const zds_host *host, size_t bytes, size_t align)
{
    (void)host;
    align = align > 64 ? align : 64;
    size_t size = (bytes + align - 1) / align * align;
    void *p = aligned_alloc(align, size ? size : align);
    return p ? memset(p, 0, size ? size : align) : NULL;
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

static void host_for(const zds_host *host, size_t n, void (*body)(void *arg, size_t i), void *arg)
{
    (void)host;
    for (size_t i = n; i-- > 0;) /* any order must do */
        body(arg, i);
}

static const zds_host test_host = {.struct_size = sizeof(zds_host),
                                   .threads = 2,
                                   .log = host_log,
                                   .fail = host_fail,
                                   .alloc = host_alloc,
                                   .free = host_free,
                                   .parallel_for = host_for,
                                   .alloc_in = host_alloc_in};

static inline const zds_comm_ops *open_plugin(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/lib/zds/plugins/comm_%s.so", TEST_BINARY_DIR, name);
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!file) {
        fprintf(stderr, "%s\n", dlerror());
        exit(99);
    }
    const zds_plugin *const *list = dlsym(file, "zds_plugin_v1");
    return list[0]->ops;
}

/* One rank of a test. */
typedef struct rank {
    const zds_comm_ops *ops;
    void *self;
    int32_t rank, size;
} rank;

static inline zds_comm_env rank_env(int32_t r, int32_t n, int32_t port, int32_t timeout_ms)
{
    return (zds_comm_env){.struct_size = sizeof(zds_comm_env),
                          .rank = r,
                          .world_size = n,
                          .local_rank = r,
                          .local_world_size = n,
                          .master_addr = "127.0.0.1",
                          .master_port = port,
                          .timeout_ms = timeout_ms};
}

/* In a rank: says what is wrong and ends it. */
#define NEED(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, " [last error: %s]\n", last_error);                                    \
            fflush(stderr);                                                                        \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static inline int test_port(void)
{
    static int count;
    return 1 + (getpid() * 16 + count++ % 16) % 60000;
}

typedef struct world_run {
    const char *plugin;
    int32_t size, timeout_ms;
    void (*body)(rank *me, void *arg);
    void *arg;
    int status[16]; /* out: as waitpid gives it */
} world_run;

static inline void rank_main(const world_run *w, int32_t r, int port)
{
    rank me = {open_plugin(w->plugin), NULL, r, w->size};
    zds_comm_env env = rank_env(r, w->size, port, w->timeout_ms);
    bootstrap *b = bootstrap_open(&env);
    env.bootstrap = bootstrap_offer(b);
    zds_status status = me.ops->init(&test_host, NULL, &env, &me.self);
    bootstrap_finish(b);
    NEED(status == ZDS_OK, "init of rank %d: %d", (int)r, (int)status);
    w->body(&me, w->arg);
    if (me.self)
        me.ops->finalize(me.self);
    bootstrap_close(b);
}

/* Runs the ranks as processes; the number of those that did not exit with 0. */
static inline int run_world(world_run *w)
{
    int port = test_port(), bad = 0;
    pid_t pid[16];
    fflush(NULL);
    for (int32_t r = 0; r < w->size; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            alarm(60);
            rank_main(w, r, port);
            fflush(NULL);
            _exit(0);
        }
    }
    for (int32_t r = 0; r < w->size; r++) {
        waitpid(pid[r], &w->status[r], 0);
        bad += w->status[r] != 0;
    }
    return bad;
}

static inline zds_status finish(zds_event *done)
{
    if (!done)
        return ZDS_OK;
    zds_status status = done->ops->wait(done);
    done->ops->release(done);
    return status;
}

static inline double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
