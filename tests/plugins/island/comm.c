/* Ranks on islands: what they say goes through shm, or self for one rank, on a thread of the
 * backend's own, by the island's views. An operation comes after its stream's work, and before what
 * is put there later. */
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"

static const zds_plugin *alone, *together; /* self and shm */
static zds_comm_ops island_ops;

typedef struct comm_options {
    double delay_gbs, delay_us; /* NaN: none */
} comm_options;

/* What the inner one has said, on the caller's thread. */
static zds_status told(const job *j, zds_status status)
{
    return status ? j->host->fail(j->host, status, "%s", j->text) : ZDS_OK;
}

/* === life === */

/* The inner one's options, all by default: numbers and truth, for which this is enough. */
static bool read_default(const zds_option *o, char *to)
{
    const bool yes = strcmp(o->default_value, "true") == 0,
               none = strcmp(o->default_value, "null") == 0;
    const int64_t whole = none ? INT64_MIN : strtoll(o->default_value, NULL, 10);
    const double number = none ? (double)NAN : strtod(o->default_value, NULL);
    if (o->type == ZDS_OPTION_BOOL)
        memcpy(to, &yes, sizeof yes);
    else if (o->type == ZDS_OPTION_INT)
        memcpy(to, &whole, sizeof whole);
    else if (o->type == ZDS_OPTION_FLOAT)
        memcpy(to, &number, sizeof number);
    return o->type >= ZDS_OPTION_BOOL && o->type <= ZDS_OPTION_FLOAT;
}

static zds_status default_options(job *j, const zds_plugin *plugin)
{
    j->options = calloc(1, plugin->options_size + 1);
    bool read = true;
    if (!j->options)
        return j->host->fail(j->host, ZDS_ERR_MEMORY, "no memory for %s's options", plugin->name);
    for (size_t i = 0; i < plugin->option_count && read; i++) {
        const zds_option *o = (const zds_option *)(const void *)((const char *)plugin->options +
                                                                 i * plugin->option_stride);
        read = read_default(o, (char *)j->options + o->offset);
    }
    return read ? ZDS_OK
                : j->host->fail(j->host, ZDS_ERR_UNSUPPORTED,
                                "the defaults of %s's options cannot be read here", plugin->name);
}

typedef struct init_call {
    job *job;
    const zds_comm_env *env;
    zds_status status;
} init_call;

static void do_init(void *arg)
{
    init_call *c = arg;
    c->status = c->job->ops.init(&c->job->inner_host, c->job->options, c->env, &c->job->root.self);
}

static void do_finalize(void *arg)
{
    job *j = arg;
    j->ops.finalize(j->root.self);
}

static void end_thread(job *j)
{
    pthread_mutex_lock(&island_lock);
    j->stop = true;
    pthread_cond_broadcast(&island_changed);
    pthread_mutex_unlock(&island_lock);
    pthread_join(j->thread, NULL);
}

static zds_status init(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self)
{
    const comm_options *o = options;
    const zds_plugin *plugin = env->world_size > 1 ? together : alone;
    zds_comm_env inner_env = *env;
    job *j = calloc(1, sizeof *j);
    if (!j)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a communicator");
    *j = (job){.host = host, .gbs = o->delay_gbs, .us = o->delay_us};
    j->inner_host = island_inner_host(j);
    memcpy(&j->ops, plugin->ops, sizeof j->ops); /* built with this file's header */
    j->root.job = j;
    j->root.ranks = env->world_size;
    inner_env.device = (zds_device){.space = ZDS_SPACE_HOST};
    zds_status status = default_options(j, plugin);
    if (status) {
        free(j->options);
        free(j);
        return status;
    }
    if (pthread_create(&j->thread, NULL, island_comm_live, j) != 0) {
        free(j->options);
        free(j);
        return host->fail(host, ZDS_ERR_MEMORY, "no thread for a communicator");
    }
    init_call c = {j, &inner_env, ZDS_OK};
    island_on_thread(j, false, do_init, &c);
    status = told(j, c.status);
    if (status) {
        end_thread(j);
        free(j->options);
        free(j);
        return status;
    }
    *self = &j->root;
    return ZDS_OK;
}

static void do_finalize_child(void *arg)
{
    comm *c = arg;
    c->job->ops.finalize(c->self);
}

static void finalize(void *self)
{
    comm *c = self;
    job *j = c->job;
    if (c != &j->root) {
        island_on_thread(j, true, do_finalize_child, c);
        free(c);
        return;
    }
    island_on_thread(j, true, do_finalize, j);
    end_thread(j);
    free(j->options);
    free(j);
}

typedef struct split_call {
    comm *parent;
    int32_t color, key;
    void *child;
    float ranks;
    zds_status status;
} split_call;

/* How many there are is not told: they are counted. */
static void do_split(void *arg)
{
    split_call *c = arg;
    const zds_comm_ops *ops = &c->parent->job->ops;
    zds_event *done = NULL;
    c->ranks = 1;
    const zds_coll count = {.struct_size = sizeof count,
                            .src = &c->ranks,
                            .dst = &c->ranks,
                            .count = 1,
                            .src_dtype = ZDS_F32,
                            .dst_dtype = ZDS_F32,
                            .op = ZDS_SUM};
    c->status = ops->split(c->parent->self, c->color, c->key, &c->child);
    if (!c->status)
        c->status = ops->all_reduce(c->child, &count, &done);
    if (done) {
        c->status = done->ops->wait(done);
        done->ops->release(done);
    }
}

static zds_status split(void *self, int32_t color, int32_t key, void **child)
{
    comm *parent = self;
    job *j = parent->job;
    comm *made = calloc(1, sizeof *made);
    if (!made)
        return j->host->fail(j->host, ZDS_ERR_MEMORY, "no memory for a communicator");
    split_call c = {.parent = parent, .color = color, .key = key};
    island_on_thread(j, false, do_split, &c);
    zds_status status = told(j, c.status);
    if (status) {
        free(made);
        return status;
    }
    *made = (comm){j, c.child, (int32_t)c.ranks};
    *child = made;
    return ZDS_OK;
}

static void give_up(void *self, const char *reason)
{
    const comm *c = self;
    c->job->ops.abort(c->self, reason);
}

/* === memory === */

static zds_status mem_alloc(void *self, uint64_t bytes, int32_t kind, zds_region *region)
{
    const comm *c = self;
    (void)bytes, (void)kind, (void)region;
    return c->job->host->fail(c->job->host, ZDS_ERR_UNSUPPORTED,
                              "memory of the island is its tier's; register it");
}

static void mem_free(void *self, zds_region *region)
{
    (void)self, (void)region;
}

typedef struct register_call {
    comm *comm;
    registered *r;
} register_call;

/* Where the inner one cannot, it copies. */
static void do_register(void *arg)
{
    register_call *c = arg;
    registered *r = c->r;
    const zds_comm_ops *ops = &c->comm->job->ops;
    r->inner = (zds_region){.struct_size = sizeof r->inner};
    void *view = island_view(r->base);
    if (!ops->mem_register)
        return;
    const zds_device here = {.space = ZDS_SPACE_HOST};
    r->within = ops->mem_register(c->comm->self, view, r->bytes, here, &r->inner) == ZDS_OK;
}

static void do_unregister(void *arg)
{
    register_call *c = arg;
    if (c->r->within)
        c->comm->job->ops.mem_unregister(c->comm->self, &c->r->inner);
}

static zds_status register_any(comm *c, void *base, uint64_t bytes, zds_region *region)
{
    job *j = c->job;
    registered *r = calloc(1, sizeof *r);
    if (!r)
        return j->host->fail(j->host, ZDS_ERR_MEMORY, "no memory to register memory");
    *r = (registered){.base = base, .bytes = bytes};
    register_call call = {c, r};
    if (bytes && !island_owns(base, bytes)) {
        free(r);
        return j->host->fail(j->host, ZDS_ERR_UNSUPPORTED,
                             "%llu bytes at %p are no memory of an island",
                             (unsigned long long)bytes, base);
    }
    island_on_thread(j, false, do_register, &call);
    pthread_mutex_lock(&island_lock);
    r->next = j->known;
    j->known = r;
    pthread_mutex_unlock(&island_lock);
    region->base = base;
    region->read_only = base;
    region->bytes = bytes;
    region->kind = ZDS_MEM_SYMMETRIC;
    region->handle = r;
    return ZDS_OK;
}

static zds_status mem_register(void *self, void *base, uint64_t bytes, zds_device device,
                               zds_region *region)
{
    const comm *c = self;
    if (device.space != ZDS_SPACE_TEST)
        return c->job->host->fail(c->job->host, ZDS_ERR_UNSUPPORTED,
                                  "memory of space %d is none of an island", device.space);
    region->device = device;
    return register_any(self, base, bytes, region);
}

static void mem_unregister(void *self, zds_region *region)
{
    comm *c = self;
    registered *r = region->handle;
    register_call call = {c, r};
    island_on_thread(c->job, false, do_unregister, &call);
    pthread_mutex_lock(&island_lock);
    registered **link = &c->job->known;
    while (*link != r)
        link = &(*link)->next;
    *link = r->next;
    pthread_mutex_unlock(&island_lock);
    free(r);
}

/* === operations === */

static bool is_registered(job *j, const char *at, uint64_t bytes)
{
    pthread_mutex_lock(&island_lock);
    const registered *r = j->known;
    while (r && !(at >= r->base && bytes <= r->bytes - (uint64_t)(at - r->base) &&
                  at < r->base + r->bytes))
        r = r->next;
    pthread_mutex_unlock(&island_lock);
    return r != NULL;
}

static zds_status check(job *j, const char *name, const void *at, uint64_t bytes)
{
    if (!at || bytes == 0 || is_registered(j, at, bytes))
        return ZDS_OK;
    return j->host->fail(j->host, ZDS_ERR_INVALID,
                         "%s: %llu bytes at %p are not memory of an island that was registered",
                         name, (unsigned long long)bytes, at);
}

/* How much of src and dst there is, in counts. */
typedef struct shape {
    const char *name;
    bool src_world, dst_world;
} shape;

static zds_status keep_waits(job *j, task *t, const zds_coll *coll)
{
    for (size_t i = 0; i < coll->wait_count; i++)
        if (coll->waits[i] && !(coll->waits[i]->ops->flags & ZDS_EVENT_ANY_THREAD))
            return j->host->fail(j->host, ZDS_ERR_INVALID,
                                 "an event that one thread alone may test is of no use here");
    t->waits = coll->wait_count ? malloc(coll->wait_count * sizeof(zds_event *)) : NULL;
    if (coll->wait_count && !t->waits)
        return j->host->fail(j->host, ZDS_ERR_MEMORY, "no memory for an operation");
    if (coll->wait_count)
        memcpy(t->waits, coll->waits, coll->wait_count * sizeof(zds_event *));
    t->wait_count = coll->wait_count;
    return ZDS_OK;
}

/* The operation comes after what is on the stream, and before what will be. */
static zds_status keep_order(task *t, const zds_stream *stream)
{
    zds_event *before = NULL;
    zds_status status = island_put(island_device_of(stream), stream, NULL, 0, NULL, NULL, &before);
    if (status)
        return status;
    t->stream_work = (island_event *)(void *)before; /* its reference goes over */
    return island_put_after(stream, t->event);
}

static void drop_task(task *t)
{
    pthread_mutex_lock(&island_lock);
    t->event->done = true;
    pthread_cond_broadcast(&island_changed);
    if (t->stream_work)
        island_event_drop(t->stream_work);
    island_event_drop(t->event);
    pthread_mutex_unlock(&island_lock);
    free(t->waits);
    free(t);
}

static zds_status issue(comm *c, const shape *s, collective function, const zds_coll *coll,
                        zds_event **done)
{
    job *j = c->job;
    const uint64_t world = (uint64_t)c->ranks;
    const uint64_t src = coll->count * (s->src_world ? world : 1) * zds_dtype_size(coll->src_dtype);
    const uint64_t dst = coll->count * (s->dst_world ? world : 1) * zds_dtype_size(coll->dst_dtype);
    if (done)
        *done = NULL;
    zds_status status = check(j, s->name, coll->src, src);
    if (!status)
        status = check(j, s->name, coll->dst, dst);
    if (status)
        return status;
    task *t = calloc(1, sizeof *t);
    if (!t || !(t->event = island_event_make(j->host, true))) {
        free(t);
        return j->host->fail(j->host, ZDS_ERR_MEMORY, "no memory for an operation");
    }
    memcpy(&t->coll, coll, coll->struct_size < sizeof t->coll ? coll->struct_size : sizeof t->coll);
    t->coll.struct_size = sizeof t->coll;
    t->coll.waits = NULL;
    t->coll.wait_count = 0;
    t->coll.stream = NULL;
    t->coll.src = island_view(coll->src);
    t->coll.dst = island_view(coll->dst);
    t->comm = c;
    t->function = function;
    t->bytes = (double)(src > dst ? src : dst);
    status = keep_waits(j, t, coll);
    if (!status && coll->stream)
        status = keep_order(t, coll->stream);
    if (status) {
        drop_task(t);
        return status;
    }
    t->event->references += done != NULL;
    if (done)
        *done = &t->event->base;
    pthread_mutex_lock(&island_lock);
    island_comm_enqueue(j, t);
    pthread_mutex_unlock(&island_lock);
    return ZDS_OK;
}

#define COLLECTIVE(name, src_world, dst_world)                                                     \
    static zds_status name(void *self, const zds_coll *coll, zds_event **done)                     \
    {                                                                                              \
        static const shape s = {#name, src_world, dst_world};                                      \
        comm *c = self;                                                                            \
        return issue(c, &s, c->job->ops.name, coll, done);                                         \
    }
COLLECTIVE(all_reduce, false, false)
COLLECTIVE(reduce, false, false)
COLLECTIVE(reduce_scatter, true, false)
COLLECTIVE(all_gather, false, true)
COLLECTIVE(broadcast, false, false)
COLLECTIVE(all_to_all, true, true)
COLLECTIVE(send, false, false)
COLLECTIVE(recv, false, false)

static zds_status barrier(void *self, const zds_coll *coll, zds_event **done)
{
    static const shape s = {"barrier", false, false};
    comm *c = self;
    zds_coll other = {0};
    memcpy(&other, coll, coll->struct_size < sizeof other ? coll->struct_size : sizeof other);
    other.struct_size = sizeof other;
    other.src = other.dst = NULL;
    other.count = 0;
    return issue(c, &s, c->job->ops.barrier, &other, done);
}

/* === what zds sees === */

static int32_t suits(const zds_comm_env *env)
{
    const zds_space space = env->device.space;
    return space == ZDS_SPACE_TEST && env->local_world_size == env->world_size ? 50 : 0;
}

static const zds_option options[] = {
    {.name = "delay_gbs",
     .type = ZDS_OPTION_FLOAT,
     .flags = ZDS_OPTION_NULLABLE | ZDS_OPTION_ABOVE_MIN,
     .offset = offsetof(comm_options, delay_gbs),
     .default_value = "null",
     .min = 0,
     .max = INFINITY,
     .doc = "gigabytes a second of a link; null: as fast as it goes"},
    {.name = "delay_us",
     .type = ZDS_OPTION_FLOAT,
     .offset = offsetof(comm_options, delay_us),
     .default_value = "0",
     .min = 0,
     .max = 1e6,
     .doc = "microseconds that an operation takes on the link besides"},
};

zds_plugin island_comm = {.struct_size = sizeof island_comm,
                          .kind = ZDS_KIND_COMM,
                          .abi_minor = ZDS_ABI_MINOR,
                          .name = "island",
                          .version = "1.0",
                          .doc = "ranks on islands, for tests, with a link of any speed",
                          ZDS_OPTION_TABLE(options, comm_options),
                          .ops = &island_ops};

static const zds_plugin *open_plugin(const char *path)
{
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* for as long as the process */
    const zds_plugin *const *list = file ? dlsym(file, "zds_plugin_v1") : NULL;
    return list ? list[0] : NULL;
}

bool island_comm_init(void)
{
    alone = open_plugin(ISLAND_HOST_PLUGINS "/comm_self.so");
    together = open_plugin(ISLAND_HOST_PLUGINS "/comm_shm.so");
    if (!alone || !together)
        return false;
    const zds_comm_ops *a = alone->ops, *b = together->ops;
    island_ops = (zds_comm_ops){
        .struct_size = sizeof island_ops,
        .flags = (a->flags & b->flags & (ZDS_COMM_FUSED | ZDS_COMM_DETERMINISTIC)) |
                 ZDS_COMM_AUTO_PROGRESS,
        .spaces = ZDS_SPACE_BIT(ZDS_SPACE_TEST),
        .reduce_dtypes = a->reduce_dtypes & b->reduce_dtypes,
        .suits = suits,
        .init = init,
        .finalize = finalize,
        .split = split,
        .mem_alloc = mem_alloc,
        .mem_free = mem_free,
        .mem_register = mem_register,
        .mem_unregister = mem_unregister,
        .all_reduce = all_reduce,
        .reduce = reduce,
        .reduce_scatter = reduce_scatter,
        .all_gather = all_gather,
        .broadcast = broadcast,
        .all_to_all = all_to_all,
        .send = a->send && b->send ? send : NULL,
        .recv = a->recv && b->recv ? recv : NULL,
        .barrier = barrier,
        .abort = give_up,
    };
    island_ops.flags |= ZDS_COMM_ONE_NODE;
    island_ops.least_ranks = 1;
    return true;
}
