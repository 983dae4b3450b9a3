/* A world of one rank: every collective is a copy, a scaling, or nothing at all, and is done when
 * the call returns. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/coll.h"
#include "common/simd_level.h"

typedef struct world {
    const zds_host *host;
} world;

static int32_t suits(const zds_comm_env *env)
{
    return env->world_size == 1 ? 100 : 0;
}

static zds_status create(const zds_host *host, void **self)
{
    world *w = host->alloc(host, sizeof *w, 0);
    if (!w)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a communicator");
    w->host = host;
    *self = w;
    return ZDS_OK;
}

static zds_status init(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self)
{
    (void)options;
    if (env->world_size != 1)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "a world of one rank, but WORLD_SIZE is %d: use shm, mpi or nccl",
                          (int)env->world_size);
    int level;
    zds_status status = simd_level(host, &level);
    return status ? status : create(host, self);
}

static void finalize(void *self)
{
    world *w = self;
    w->host->free(w->host, w);
}

static zds_status split(void *self, int32_t color, int32_t key, void **child)
{
    (void)color;
    (void)key;
    return create(((world *)self)->host, child);
}

/* Memory that nobody shares may be of huge pages, which shared memory seldom is. */
static zds_status own_pages(const zds_host *host, size_t length, zds_region *region)
{
    void *base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return host->fail(host, ZDS_ERR_MEMORY, "cannot map %zu bytes: %s", length,
                          strerror(errno));
    (void)madvise(base, length, MADV_HUGEPAGE); /* refused where the kernel has none */
    region->base = base;
    region->read_only = base;
    return ZDS_OK;
}

/* memfd: the one way to have the same pages twice, with and without the right to write. */
static zds_status shared_pages(const zds_host *host, size_t length, zds_region *region)
{
    int fd = memfd_create("zds-self", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)length) != 0) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return host->fail(host, ZDS_ERR_MEMORY, "cannot make %zu bytes of shared memory: %s",
                          length, strerror(error));
    }
    void *base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *view = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
    int error = errno;
    close(fd);
    if (base == MAP_FAILED || view == MAP_FAILED) {
        if (base != MAP_FAILED)
            munmap(base, length);
        if (view != MAP_FAILED)
            munmap(view, length);
        return host->fail(host, ZDS_ERR_MEMORY, "cannot map %zu bytes of shared memory: %s", length,
                          strerror(error));
    }
    (void)madvise(base, length, MADV_HUGEPAGE); /* refused where the kernel has none for memfd */
    region->base = base;
    region->read_only = view;
    return ZDS_OK;
}

static zds_status counters(const zds_host *host, uint64_t bytes, zds_region *region)
{
    region->handle = host->alloc(host, bytes, 0);
    return region->handle ? ZDS_OK
                          : host->fail(host, ZDS_ERR_MEMORY, "no memory for %llu counters",
                                       (unsigned long long)(bytes / sizeof(uint64_t)));
}

static zds_status mem_alloc(void *self, uint64_t bytes, int32_t kind, zds_region *region)
{
    const zds_host *host = ((world *)self)->host;
    size_t length = bytes ? bytes : 1;
    zds_status status;
    if (kind == ZDS_MEM_SYMMETRIC)
        status = own_pages(host, length, region);
    else if (kind == ZDS_MEM_SHARED)
        status = shared_pages(host, length, region);
    else if (kind == ZDS_MEM_COUNTERS)
        status = counters(host, bytes, region);
    else
        status = host->fail(host, ZDS_ERR_INVALID, "mem_alloc: kind %d does not exist", (int)kind);
    if (status)
        return status;
    region->bytes = bytes;
    region->kind = kind;
    region->device = (zds_device){.space = ZDS_SPACE_HOST};
    return ZDS_OK;
}

static void mem_free(void *self, zds_region *region)
{
    const zds_host *host = ((world *)self)->host;
    size_t length = region->bytes ? region->bytes : 1;
    if (region->base) {
        if (region->read_only != region->base)
            munmap((void *)(uintptr_t)region->read_only, length);
        munmap(region->base, length);
    }
    host->free(host, region->handle);
    region->base = region->handle = NULL;
    region->read_only = NULL;
}

/* There are no peers to read it. */
static zds_status mem_register(void *self, void *base, uint64_t bytes, zds_device device,
                               zds_region *region)
{
    const zds_host *host = ((world *)self)->host;
    if (device.space != ZDS_SPACE_HOST)
        return host->fail(host, ZDS_ERR_UNSUPPORTED, "mem_register: memory of space %d: only host",
                          (int)device.space);
    region->base = base;
    region->read_only = base;
    region->bytes = bytes;
    region->kind = ZDS_MEM_SYMMETRIC;
    region->device = device;
    region->handle = NULL;
    return ZDS_OK;
}

static void mem_unregister(void *self, zds_region *region)
{
    (void)self;
    region->base = NULL;
    region->read_only = NULL;
}

/* === counters === */

/* Waits for a count that is still to come, which only this rank itself can make. */
typedef struct count_event {
    zds_event event;
    const zds_host *host;
    _Atomic uint64_t *counter;
    uint64_t value;
    char what[80];
} count_event;

static zds_status count_test(zds_event *event, int32_t *done)
{
    const count_event *e = (const count_event *)(const void *)event;
    *done = atomic_load(e->counter) >= e->value;
    return ZDS_OK;
}

static zds_status count_wait(zds_event *event)
{
    const count_event *e = (const count_event *)(const void *)event;
    uint64_t now = atomic_load(e->counter);
    if (now >= e->value)
        return ZDS_OK;
    return e->host->fail(e->host, ZDS_ERR_PEER,
                         "waiting for %s: the counter is %llu, and in a world of one rank nobody"
                         " else makes it %llu",
                         e->what, (unsigned long long)now, (unsigned long long)e->value);
}

static void count_release(zds_event *event)
{
    const zds_host *host = ((count_event *)(void *)event)->host;
    host->free(host, event);
}

static const zds_event_ops count_ops = {.struct_size = sizeof count_ops,
                                        .flags = ZDS_EVENT_ANY_THREAD,
                                        .test = count_test,
                                        .wait = count_wait,
                                        .release = count_release};

static _Atomic uint64_t *counter_at(const world *w, const zds_region *region, uint64_t index)
{
    if (region->kind == ZDS_MEM_COUNTERS && index < region->bytes / sizeof(uint64_t))
        return (_Atomic uint64_t *)region->handle + index;
    (void)w->host->fail(w->host, ZDS_ERR_INVALID, "there is no counter %llu in this region",
                        (unsigned long long)index);
    return NULL;
}

static zds_status counter_add(void *self, const zds_region *region, uint64_t index)
{
    _Atomic uint64_t *counter = counter_at(self, region, index);
    if (!counter)
        return ZDS_ERR_INVALID;
    atomic_fetch_add(counter, 1);
    return ZDS_OK;
}

static zds_status counter_wait(void *self, const zds_region *region, uint64_t index, uint64_t value,
                               const char *what, zds_event **done)
{
    const zds_host *host = ((world *)self)->host;
    _Atomic uint64_t *counter = counter_at(self, region, index);
    *done = NULL;
    if (!counter)
        return ZDS_ERR_INVALID;
    if (atomic_load(counter) >= value)
        return ZDS_OK;
    count_event *e = host->alloc(host, sizeof *e, 0);
    if (!e)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an event");
    *e = (count_event){.event = {&count_ops}, .host = host, .counter = counter, .value = value};
    snprintf(e->what, sizeof e->what, "%s", what ? what : "a counter");
    *done = &e->event;
    return ZDS_OK;
}

/* === operations === */

static zds_status begin(const world *w, const char *name, const zds_coll *coll, bool reduces,
                        zds_coll *c, zds_event **done)
{
    *c = coll_copy(coll);
    *done = NULL;
    zds_status status = coll_check_size(w->host, name, c);
    if (!status)
        status = coll_check(w->host, name, c, reduces);
    for (size_t i = 0; !status && i < c->wait_count; i++)
        if (c->waits[i])
            status = c->waits[i]->ops->wait(c->waits[i]);
    return status;
}

static zds_status need_root(const world *w, const char *name, const zds_coll *c)
{
    if (c->peer != 0)
        return w->host->fail(w->host, ZDS_ERR_INVALID, "%s: there is no rank %d in a world of one",
                             name, (int)c->peer);
    return ZDS_OK;
}

/* The sum, mean and maximum of one rank are its own values. */
static zds_status move(const world *w, const char *name, const zds_coll *coll, bool reduces,
                       bool rooted, zds_event **done)
{
    zds_coll c;
    zds_status status = begin(w, name, coll, reduces, &c, done);
    if (!status && c.fused)
        status = w->host->fail(w->host, ZDS_ERR_INVALID,
                               "%s: only reduce_scatter and reduce can be fused", name);
    if (!status && rooted)
        status = need_root(w, name, &c);
    if (!status)
        reduce_copy(w->host, c.dst, c.src, c.count * zds_dtype_size(c.src_dtype));
    return status;
}

static zds_status all_reduce(void *self, const zds_coll *coll, zds_event **done)
{
    return move(self, "all_reduce", coll, true, false, done);
}

static zds_status reduce_own(const world *w, const char *name, const zds_coll *coll, bool rooted,
                             zds_event **done)
{
    zds_coll c;
    zds_status status = begin(w, name, coll, true, &c, done);
    if (!status && rooted)
        status = need_root(w, name, &c);
    if (status)
        return status;
    if (!c.fused) {
        reduce_copy(w->host, c.dst, c.src, c.count * zds_dtype_size(c.src_dtype));
        return ZDS_OK;
    }
    reduce_task task = coll_fused_task(&c, &c.src, 1);
    reduce_fused(w->host, &task);
    return ZDS_OK;
}

static zds_status reduce(void *self, const zds_coll *coll, zds_event **done)
{
    return reduce_own(self, "reduce", coll, true, done);
}

static zds_status reduce_scatter(void *self, const zds_coll *coll, zds_event **done)
{
    return reduce_own(self, "reduce_scatter", coll, false, done);
}

static zds_status all_gather(void *self, const zds_coll *coll, zds_event **done)
{
    return move(self, "all_gather", coll, false, false, done);
}

static zds_status broadcast(void *self, const zds_coll *coll, zds_event **done)
{
    return move(self, "broadcast", coll, false, true, done);
}

static zds_status all_to_all(void *self, const zds_coll *coll, zds_event **done)
{
    return move(self, "all_to_all", coll, false, false, done);
}

static zds_status barrier(void *self, const zds_coll *coll, zds_event **done)
{
    zds_coll c, given = coll_copy(coll);
    const zds_coll bare = {.struct_size =
                               given.struct_size < sizeof bare ? given.struct_size : sizeof bare,
                           .waits = given.waits,
                           .wait_count = given.wait_count,
                           .stream = given.stream};
    return begin(self, "barrier", &bare, false, &c, done);
}

/* Nobody else waits. */
static void give_up(void *self, const char *reason)
{
    (void)self;
    (void)reason;
}

static const zds_comm_ops ops = {
    .struct_size = sizeof ops,
    .flags = ZDS_COMM_FUSED | ZDS_COMM_DETERMINISTIC | ZDS_COMM_NODE_SHARED |
             ZDS_COMM_AUTO_PROGRESS | ZDS_COMM_COPIES | ZDS_COMM_ONE_NODE,
    .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
    .reduce_dtypes = REDUCE_DTYPES,
    .least_ranks = 1,
    .most_ranks = 1,
    .suits = suits,
    .init = init,
    .finalize = finalize,
    .split = split,
    .mem_alloc = mem_alloc,
    .mem_free = mem_free,
    .mem_register = mem_register,
    .mem_unregister = mem_unregister,
    .counter_add = counter_add,
    .counter_wait = counter_wait,
    .all_reduce = all_reduce,
    .reduce = reduce,
    .reduce_scatter = reduce_scatter,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .all_to_all = all_to_all,
    .barrier = barrier,
    .abort = give_up,
};

static const zds_plugin plugin = {
    .struct_size = sizeof plugin,
    .kind = ZDS_KIND_COMM,
    .abi_minor = ZDS_ABI_MINOR,
    .name = "self",
    .version = "1.0",
    .doc = "a world of one rank",
    .ops = &ops,
};
ZDS_PLUGINS(&plugin);
