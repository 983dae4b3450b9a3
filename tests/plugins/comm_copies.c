/* A world of any size in one process: every other rank is a copy of this one, does what it does
 * with the same bytes, and is never waited for. So one process can be rank 0 of 4096, to see what a
 * rank needs and does there. Costs as little as the result allows: a sum of N equal numbers is N
 * times the number (in log2 N roundings), a mean or maximum the number itself.
 *
 * "copies" connects ranks of many nodes; "copies_node" has all on one node, with SHARED pages and
 * counters, where each count of this rank is one of every copy. Parts of SHARED pages that others
 * would write stay as they are. A split takes all copies along, since they say the same color. */
#include <string.h>

#include "common/coll.h"
#include "common/simd_level.h"

typedef struct world {
    const zds_host *host;
    int32_t rank, size;
} world;

static int32_t suits(const zds_comm_env *env)
{
    (void)env;
    return 0; /* only where the config names it */
}

static zds_status create(const zds_host *host, int32_t rank, int32_t size, void **self)
{
    world *w = host->alloc(host, sizeof *w, 0);
    if (!w)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a communicator");
    *w = (world){host, rank, size};
    *self = w;
    return ZDS_OK;
}

static zds_status init(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self)
{
    (void)options;
    int level;
    zds_status status = simd_level(host, &level);
    return status ? status : create(host, env->rank, env->world_size, self);
}

static void finalize(void *self)
{
    world *w = self;
    w->host->free(w->host, w);
}

static zds_status split(void *self, int32_t color, int32_t key, void **child)
{
    const world *w = self;
    (void)color, (void)key;
    return create(w->host, w->rank, w->size, child);
}

/* === memory === */

static zds_status mem_alloc(void *self, uint64_t bytes, int32_t kind, zds_region *region)
{
    const zds_host *host = ((world *)self)->host;
    region->handle = host->alloc(host, bytes ? bytes : 1, 4096);
    if (!region->handle)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for %llu bytes",
                          (unsigned long long)bytes);
    region->base = kind == ZDS_MEM_COUNTERS ? NULL : region->handle;
    region->read_only = region->base;
    region->bytes = bytes;
    region->kind = kind;
    region->device = (zds_device){.space = ZDS_SPACE_HOST};
    return ZDS_OK;
}

static void mem_free(void *self, zds_region *region)
{
    const zds_host *host = ((world *)self)->host;
    host->free(host, region->handle);
    region->base = region->handle = NULL;
    region->read_only = NULL;
}

static zds_status mem_register(void *self, void *base, uint64_t bytes, zds_device device,
                               zds_region *region)
{
    (void)self;
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

static zds_status counter_add(void *self, const zds_region *region, uint64_t index)
{
    ((uint64_t *)region->handle)[index] += (uint64_t)((world *)self)->size;
    return ZDS_OK;
}

static zds_status counter_wait(void *self, const zds_region *region, uint64_t index, uint64_t value,
                               const char *what, zds_event **done)
{
    const zds_host *host = ((world *)self)->host;
    uint64_t now = ((const uint64_t *)region->handle)[index];
    *done = NULL;
    return now >= value ? ZDS_OK
                        : host->fail(host, ZDS_ERR_PEER,
                                     "%s: all copies have counted %llu, and wait for %llu",
                                     what ? what : "a counter", (unsigned long long)now,
                                     (unsigned long long)value);
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

/* dst = size times src, by doubling. */
static zds_status multiply(const world *w, const zds_coll *c, const char *src, char *dst)
{
    const zds_host *host = w->host;
    const size_t bytes = c->count * zds_dtype_size(c->src_dtype);
    char *once = host->alloc(host, bytes ? bytes : 1, 0);
    if (!once)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a sum");
    memcpy(once, src, bytes);
    memmove(dst, src, bytes);
    int32_t bit = 1;
    while (bit <= w->size / 2)
        bit *= 2;
    for (bit /= 2; bit; bit /= 2) {
        const void *twice[] = {dst, dst}, *more[] = {dst, once};
        reduce_plain(host, twice, 2, c->src_dtype, ZDS_SUM, dst, c->count);
        if (w->size & bit)
            reduce_plain(host, more, 2, c->src_dtype, ZDS_SUM, dst, c->count);
    }
    host->free(host, once);
    return ZDS_OK;
}

/* One rank's part of a reduction, of which `src` is every rank's. */
static zds_status reduce_part(const world *w, const zds_coll *c, const char *src)
{
    if (!c->dst)
        return ZDS_OK;
    if (c->fused) {
        const void *sources[] = {src};
        reduce_task task = coll_fused_task(c, sources, 1);
        task.postscale *= w->size;
        reduce_fused(w->host, &task);
        return ZDS_OK;
    }
    if (c->op == ZDS_SUM)
        return multiply(w, c, src, c->dst);
    memmove(c->dst, src, c->count * zds_dtype_size(c->src_dtype));
    return ZDS_OK;
}

static zds_status all_reduce(void *self, const zds_coll *coll, zds_event **done)
{
    zds_coll c;
    zds_status status = begin(self, "all_reduce", coll, true, &c, done);
    return status ? status : reduce_part(self, &c, c.src);
}

static zds_status reduce(void *self, const zds_coll *coll, zds_event **done)
{
    const world *w = self;
    zds_coll c;
    zds_status status = begin(w, "reduce", coll, true, &c, done);
    return status || c.peer != w->rank ? status : reduce_part(w, &c, c.src);
}

static zds_status reduce_scatter(void *self, const zds_coll *coll, zds_event **done)
{
    const world *w = self;
    zds_coll c;
    zds_status status = begin(w, "reduce_scatter", coll, true, &c, done);
    if (status)
        return status;
    return reduce_part(
        w, &c, (const char *)c.src + (uint64_t)w->rank * c.count * zds_dtype_size(c.src_dtype));
}

static zds_status all_gather(void *self, const zds_coll *coll, zds_event **done)
{
    const world *w = self;
    zds_coll c;
    zds_status status = begin(w, "all_gather", coll, false, &c, done);
    const size_t bytes = status ? 0 : c.count * zds_dtype_size(c.src_dtype);
    for (int32_t r = 0; r < w->size && bytes; r++) {
        char *to = (char *)c.dst + (size_t)r * bytes;
        if (to != c.src)
            memcpy(to, c.src, bytes);
    }
    return status;
}

static zds_status broadcast(void *self, const zds_coll *coll, zds_event **done)
{
    const world *w = self;
    zds_coll c;
    zds_status status = begin(w, "broadcast", coll, false, &c, done);
    if (!status && c.peer == w->rank && c.dst != c.src)
        memcpy(c.dst, c.src, c.count * zds_dtype_size(c.src_dtype));
    return status;
}

static zds_status all_to_all(void *self, const zds_coll *coll, zds_event **done)
{
    const world *w = self;
    zds_coll c;
    zds_status status = begin(w, "all_to_all", coll, false, &c, done);
    const size_t bytes = status ? 0 : c.count * zds_dtype_size(c.src_dtype);
    for (int32_t r = 0; r < w->size && bytes; r++)
        memcpy((char *)c.dst + (size_t)r * bytes, (const char *)c.src + (size_t)w->rank * bytes,
               bytes);
    return status;
}

static zds_status barrier(void *self, const zds_coll *coll, zds_event **done)
{
    (void)self, (void)coll;
    *done = NULL;
    return ZDS_OK;
}

static void give_up(void *self, const char *reason)
{
    (void)self, (void)reason;
}

#define OPERATIONS                                                                                 \
    .struct_size = sizeof(zds_comm_ops), .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),                  \
    .reduce_dtypes = REDUCE_DTYPES, .least_ranks = 1, .suits = suits, .init = init,                \
    .finalize = finalize, .split = split, .mem_alloc = mem_alloc, .mem_free = mem_free,            \
    .mem_register = mem_register, .mem_unregister = mem_unregister, .all_reduce = all_reduce,      \
    .reduce = reduce, .reduce_scatter = reduce_scatter, .all_gather = all_gather,                  \
    .broadcast = broadcast, .all_to_all = all_to_all, .barrier = barrier, .abort = give_up

static const uint64_t common =
    ZDS_COMM_FUSED | ZDS_COMM_DETERMINISTIC | ZDS_COMM_AUTO_PROGRESS | ZDS_COMM_COPIES;
static const zds_comm_ops ops = {.flags = common, OPERATIONS};
static const zds_comm_ops node_ops = {.flags = common | ZDS_COMM_NODE_SHARED | ZDS_COMM_ONE_NODE,
                                      OPERATIONS,
                                      .counter_add = counter_add,
                                      .counter_wait = counter_wait};

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_COMM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "copies",
                                  .version = "1.0",
                                  .doc = "copies of this rank, on many nodes",
                                  .ops = &ops};
static const zds_plugin node_plugin = {.struct_size = sizeof node_plugin,
                                       .kind = ZDS_KIND_COMM,
                                       .abi_minor = ZDS_ABI_MINOR,
                                       .name = "copies_node",
                                       .version = "1.0",
                                       .doc = "copies of this rank, on one node",
                                       .ops = &node_ops};
ZDS_PLUGINS(&plugin, &node_plugin);
