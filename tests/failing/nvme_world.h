/* Offload nvme linked into a program, with a host that may be called from any thread, and whose
 * n-th allocation may fail. */
#ifndef TESTS_FAILING_NVME_WORLD_H
#define TESTS_FAILING_NVME_WORLD_H

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "offload/nvme/nvme.h"

#define NEED(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

enum { WORLD_RANK = 3 };

typedef struct world {
    zds_host host;
    pthread_mutex_t lock;
    char error[5000], logged[5000];
    long live, allocations, fail_at; /* fail_at: the number of the allocation, from 1 */
    const zds_offload_ops *ops;
    void *self;
    char folder[64];
    uint64_t alignment;
} world;

#define WORLD_FN static __attribute__((unused))

WORLD_FN __attribute__((format(printf, 3, 4))) zds_status world_fail(const zds_host *host,
                                                                     zds_status status,
                                                                     const char *format, ...)
{
    world *w = host->context;
    va_list args;
    va_start(args, format);
    pthread_mutex_lock(&w->lock);
    vsnprintf(w->error, sizeof w->error, format, args);
    pthread_mutex_unlock(&w->lock);
    va_end(args);
    return status;
}

WORLD_FN __attribute__((format(printf, 3, 4))) void world_log(const zds_host *host, int32_t level,
                                                              const char *format, ...)
{
    world *w = host->context;
    va_list args;
    (void)level;
    va_start(args, format);
    pthread_mutex_lock(&w->lock);
    vsnprintf(w->logged, sizeof w->logged, format, args);
    pthread_mutex_unlock(&w->lock);
    va_end(args);
}

WORLD_FN void *world_alloc(const zds_host *host, size_t bytes, size_t align)
{
    world *w = host->context;
    const size_t unit = align < 64 ? 64 : align;
    pthread_mutex_lock(&w->lock);
    const bool fails = ++w->allocations == w->fail_at;
    w->live += !fails;
    pthread_mutex_unlock(&w->lock);
    void *made = fails ? NULL : aligned_alloc(unit, (bytes + unit) / unit * unit);
    if (made)
        memset(made, 0, bytes);
    return made;
}

WORLD_FN void world_free(const zds_host *host, void *pointer)
{
    world *w = host->context;
    pthread_mutex_lock(&w->lock);
    w->live -= pointer != NULL;
    pthread_mutex_unlock(&w->lock);
    free(pointer);
}

/* *w is zeros, but for fail_at and the folder. */
WORLD_FN zds_status world_open(world *w, const settings *set)
{
    w->host = (zds_host){.struct_size = sizeof w->host,
                         .threads = 1,
                         .context = w,
                         .log = world_log,
                         .fail = world_fail,
                         .alloc = world_alloc,
                         .free = world_free};
    pthread_mutex_init(&w->lock, NULL);
    w->ops = zds_plugin_v1[0]->ops;
    const zds_offload_env env = {
        .struct_size = sizeof env, .rank = WORLD_RANK, .device = -1, .path = w->folder};
    zds_status status = w->ops->open(&w->host, set, &env, &w->self);
    zds_offload_info info = {.struct_size = sizeof info};
    if (!status)
        status = w->ops->query(w->self, &info);
    w->alignment = info.alignment;
    return status;
}

WORLD_FN zds_status world_begin(world *w, const zds_block *from, void *memory, const zds_block *to,
                                uint64_t offset, uint64_t bytes, zds_event *wait, zds_event **done)
{
    zds_event *waits[] = {wait};
    zds_copy copy = {.struct_size = sizeof copy,
                     .from = {.block = from, .pointer = from ? NULL : memory},
                     .to = {.block = to, .pointer = to ? NULL : memory},
                     .bytes = bytes,
                     .waits = waits,
                     .wait_count = 1};
    copy.from.offset = from ? offset : 0;
    copy.to.offset = to ? offset : 0;
    *done = NULL;
    return w->ops->copy(w->self, &copy, done);
}

WORLD_FN zds_status world_end(zds_event *event)
{
    zds_status status = event ? event->ops->wait(event) : ZDS_OK;
    if (event)
        event->ops->release(event);
    return status;
}

static inline unsigned char world_value(uint64_t i, uint64_t seed)
{
    return (unsigned char)((i * 2654435761u + seed * 97) >> 7);
}

#endif
