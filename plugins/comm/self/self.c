/* A world of one rank: every collective is a copy, a scaling, or nothing at all, and is done when
 * the call returns. */
#include <errno.h>
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

static zds_status mem_alloc(void *self, uint64_t bytes, int32_t kind, zds_region *region)
{
    const zds_host *host = ((world *)self)->host;
    size_t length = bytes ? bytes : 1;
    zds_status status = kind == ZDS_MEM_SHARED ? shared_pages(host, length, region)
                                               : own_pages(host, length, region);
    if (status)
        return status;
    region->bytes = bytes;
    region->kind = kind;
    region->space = ZDS_SPACE_HOST;
    region->handle = region->base;
    return ZDS_OK;
}

static void mem_free(void *self, zds_region *region)
{
    (void)self;
    size_t length = region->bytes ? region->bytes : 1;
    if (region->read_only != region->base)
        munmap((void *)(uintptr_t)region->read_only, length);
    munmap(region->base, length);
    region->base = region->handle = NULL;
    region->read_only = NULL;
}

static zds_status begin(const world *w, const char *name, const zds_coll *coll, bool reduces,
                        zds_coll *c, zds_event **done)
{
    *c = coll_copy(coll);
    *done = NULL;
    zds_status status = coll_check(w->host, name, c, reduces);
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

static zds_status no_peer(void *self, const zds_coll *coll, zds_event **done)
{
    (void)coll;
    *done = NULL;
    const zds_host *host = ((world *)self)->host;
    return host->fail(host, ZDS_ERR_INVALID, "send and recv: a world of one rank has no peer");
}

static zds_status barrier(void *self, const zds_coll *coll, zds_event **done)
{
    zds_coll c;
    return begin(self, "barrier", coll, false, &c, done);
}

/* Nobody else waits. */
static void give_up(void *self, const char *reason)
{
    (void)self;
    (void)reason;
}

static const zds_comm_ops ops = {
    .struct_size = sizeof ops,
    .flags =
        ZDS_COMM_FUSED | ZDS_COMM_DETERMINISTIC | ZDS_COMM_NODE_SHARED | ZDS_COMM_AUTO_PROGRESS,
    .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
    .reduce_dtypes = REDUCE_DTYPES,
    .suits = suits,
    .init = init,
    .finalize = finalize,
    .split = split,
    .mem_alloc = mem_alloc,
    .mem_free = mem_free,
    .all_reduce = all_reduce,
    .reduce = reduce,
    .reduce_scatter = reduce_scatter,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .all_to_all = all_to_all,
    .send = no_peer,
    .recv = no_peer,
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
