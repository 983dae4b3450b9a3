/* The island's memory tier. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/kernels.h"
#include "island.h"

typedef struct tier {
    const zds_host *host;
    island_device *device;
} tier;

static const zds_option options[] = {
    {.name = "seed",
     .type = ZDS_OPTION_INT,
     .offset = offsetof(island_options, seed),
     .default_value = "1",
     .min = -INFINITY,
     .max = INFINITY,
     .doc = "of the order in which things are done"},
    {.name = "delay_us",
     .type = ZDS_OPTION_INT,
     .offset = offsetof(island_options, delay_us),
     .default_value = "20",
     .min = 0,
     .max = 1e6,
     .doc = "an operation is late by up to so many microseconds"},
    {.name = "fail_after",
     .type = ZDS_OPTION_INT,
     .offset = offsetof(island_options, fail_after),
     .default_value = "0",
     .min = 0,
     .max = INFINITY,
     .doc = "which operation fails, counted from 1; 0: none"},
    {.name = "stream_wait",
     .type = ZDS_OPTION_BOOL,
     .offset = offsetof(island_options, stream_wait),
     .default_value = "true",
     .doc = "whether streams can wait for events"},
};

static zds_status open_tier(const zds_host *host, const void *given, const zds_offload_env *env,
                            void **self)
{
    (void)env;
    tier *t = host->alloc(host, sizeof *t, 0);
    if (!t)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a tier");
    t->host = host;
    t->device = island_device_make(host, given);
    if (!t->device) {
        host->free(host, t);
        return host->fail(host, ZDS_ERR_MEMORY, "no thread for an island");
    }
    *self = t;
    return ZDS_OK;
}

static void close_tier(void *self)
{
    tier *t = self;
    island_device_end(t->device);
    t->host->free(t->host, t);
}

static zds_status query(void *self, zds_offload_info *info)
{
    (void)self;
    info->device = (zds_device){.space = ZDS_SPACE_TEST};
    info->alignment = 4096;
    info->request_bytes = 1 << 20;
    info->request_depth = 4;
    info->reaches = ZDS_SPACE_BIT(ZDS_SPACE_HOST) | ZDS_SPACE_BIT(ZDS_SPACE_HOST_PINNED) |
                    ZDS_SPACE_BIT(ZDS_SPACE_TEST);
    return ZDS_OK;
}

/* === memory === */

static void describe(zds_block *block, void *pointer, uint64_t bytes, void *handle)
{
    block->pointer = pointer;
    block->bytes = bytes;
    block->device = (zds_device){.space = ZDS_SPACE_TEST};
    block->handle = handle;
}

static zds_status alloc_block(void *self, uint64_t bytes, zds_block *block)
{
    const tier *t = self;
    void *address = bytes ? island_alloc(bytes) : NULL;
    if (bytes && !address)
        return t->host->fail(t->host, ZDS_ERR_MEMORY, "no %llu bytes on the island",
                             (unsigned long long)bytes);
    describe(block, address, bytes, address);
    return ZDS_OK;
}

static void free_block(void *self, zds_block *block)
{
    (void)self;
    island_free(block->handle);
}

static zds_status adopt(void *self, void *pointer, uint64_t bytes, zds_block *block)
{
    const tier *t = self;
    if (bytes && !island_owns(pointer, bytes))
        return t->host->fail(t->host, ZDS_ERR_INVALID,
                             "%llu bytes at %p are no memory of the island",
                             (unsigned long long)bytes, pointer);
    describe(block, pointer, bytes, NULL);
    return ZDS_OK;
}

/* === operations: what the thread needs, with addresses that it can use === */

typedef struct operation {
    void *from, *to, *sums;
    uint64_t bytes, count;
    zds_dtype from_dtype, to_dtype;
    double value; /* or scale */
    int32_t add;
    size_t segment_count;
    zds_segment segments[];
} operation;

static operation *make(const zds_end *from, const zds_end *to, size_t segment_count)
{
    operation *o = calloc(1, sizeof *o + segment_count * sizeof(zds_segment));
    if (!o)
        return NULL;
    o->from = from ? island_view(zds_end_address(from)) : NULL;
    o->to = island_view(zds_end_address(to));
    o->segment_count = segment_count;
    return o;
}

static zds_status no_memory(const tier *t)
{
    return t->host->fail(t->host, ZDS_ERR_MEMORY, "no memory for an operation");
}

/* An end on the island lies in its memory: what the host has to be told now. */
static zds_status check(const tier *t, const zds_end *end, uint64_t bytes)
{
    const char *address = zds_end_address(end);
    if ((end->block != NULL) == (end->pointer != NULL) && bytes)
        return t->host->fail(t->host, ZDS_ERR_INVALID, "an end has a block or a pointer");
    if (bytes && end->device.space == ZDS_SPACE_TEST && !island_owns(address, bytes))
        return t->host->fail(t->host, ZDS_ERR_INVALID,
                             "%llu bytes at %p are not the island's memory",
                             (unsigned long long)bytes, (const void *)address);
    return ZDS_OK;
}

/* What work that computes has its ends on the island alone. */
static zds_status check_ours(const tier *t, const zds_end *end, uint64_t bytes)
{
    if (end->device.space != ZDS_SPACE_TEST)
        return t->host->fail(t->host, ZDS_ERR_INVALID, "an end of space %d is not on the island",
                             end->device.space);
    return check(t, end, bytes);
}

#define PUT(t, call, work, o, done)                                                                \
    island_put((t)->device, (call)->stream, (call)->waits, (call)->wait_count, work, o, done)

static zds_status do_copy(void *arg, char *text)
{
    (void)text;
    const operation *o = arg;
    if (o->bytes)
        memmove(o->to, o->from, o->bytes);
    return ZDS_OK;
}

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    const tier *t = self;
    zds_status status = check(t, &c->from, c->bytes);
    if (!status)
        status = check(t, &c->to, c->bytes);
    if (!status && c->from.device.space != ZDS_SPACE_TEST && c->to.device.space != ZDS_SPACE_TEST)
        status = t->host->fail(t->host, ZDS_ERR_INVALID, "no end of the copy is on the island");
    if (status)
        return status;
    operation *o = make(&c->from, &c->to, 0);
    if (!o)
        return no_memory(t);
    o->bytes = c->bytes;
    return PUT(t, c, do_copy, o, done);
}

static zds_status do_fill(void *arg, char *text)
{
    (void)text;
    const operation *o = arg;
    kernel_fill(o->to, o->to_dtype, o->value, o->count);
    return ZDS_OK;
}

static zds_status fill(void *self, const zds_fill *f, zds_event **done)
{
    const tier *t = self;
    zds_status status = check_ours(t, &f->to, f->count * zds_dtype_size(f->dtype));
    if (status)
        return status;
    operation *o = make(NULL, &f->to, 0);
    if (!o)
        return no_memory(t);
    o->to_dtype = f->dtype;
    o->value = f->value;
    o->count = f->count;
    return PUT(t, f, do_fill, o, done);
}

static zds_status do_convert(void *arg, char *text)
{
    (void)text;
    const operation *o = arg;
    kernel_convert(o->to, o->to_dtype, o->from, o->from_dtype, o->count);
    return ZDS_OK;
}

static zds_status do_accumulate(void *arg, char *text)
{
    (void)text;
    const operation *o = arg;
    kernel_accumulate(o->to, o->to_dtype, o->from, o->from_dtype, o->value, o->add, o->count);
    return ZDS_OK;
}

static zds_status pass(const tier *t, const zds_pass *p, island_work work, zds_event **done)
{
    zds_status status = check_ours(t, &p->from, p->count * zds_dtype_size(p->from_dtype));
    if (!status)
        status = check_ours(t, &p->to, p->count * zds_dtype_size(p->to_dtype));
    if (status)
        return status;
    operation *o = make(&p->from, &p->to, 0);
    if (!o)
        return no_memory(t);
    o->from_dtype = p->from_dtype;
    o->to_dtype = p->to_dtype;
    o->count = p->count;
    o->value = p->scale;
    o->add = p->add;
    return PUT(t, p, work, o, done);
}

static zds_status convert(void *self, const zds_pass *p, zds_event **done)
{
    return pass(self, p, do_convert, done);
}

static zds_status accumulate(void *self, const zds_pass *p, zds_event **done)
{
    return pass(self, p, do_accumulate, done);
}

static zds_status do_sums(void *arg, char *text)
{
    (void)text;
    const operation *o = arg;
    *(uint64_t *)o->to +=
        kernel_chunk_sums(o->from, o->from_dtype, o->segments, o->segment_count, o->sums);
    return ZDS_OK;
}

static const zds_segment *segment_at(const zds_chunk_sums *c, size_t i)
{
    return (const void *)((const char *)c->segments + i * c->segment_stride);
}

static zds_status check_sums(const tier *t, const zds_chunk_sums *c)
{
    enum { CHUNK = 1024 };
    uint64_t elements = 0, chunks = 0;
    for (size_t i = 0; i < c->segment_count; i++) {
        elements = segment_at(c, i)->first + segment_at(c, i)->count; /* they ascend */
        chunks += (segment_at(c, i)->count + CHUNK - 1) / CHUNK;
    }
    zds_status status = check_ours(t, &c->from, elements * zds_dtype_size(c->dtype));
    if (!status)
        status = check_ours(t, &c->sums, chunks * sizeof(double));
    return status ? status : check_ours(t, &c->non_finite, sizeof(uint64_t));
}

static zds_status chunk_sums(void *self, const zds_chunk_sums *c, zds_event **done)
{
    const tier *t = self;
    zds_status status = check_sums(t, c);
    if (status)
        return status;
    operation *o = make(&c->from, &c->non_finite, c->segment_count);
    if (!o)
        return no_memory(t);
    o->sums = island_view(zds_end_address(&c->sums));
    o->from_dtype = c->dtype;
    for (size_t i = 0; i < c->segment_count; i++)
        o->segments[i] = *segment_at(c, i);
    return PUT(t, c, do_sums, o, done);
}

/* === streams === */

static zds_status stream_create(void *self, zds_stream *stream)
{
    const tier *t = self;
    return island_stream_make(t->device, stream);
}

static void stream_destroy(void *self, zds_stream *stream)
{
    (void)self;
    island_stream_end(stream);
}

static zds_status stream_record(void *self, const zds_stream *stream, zds_event **done)
{
    const tier *t = self;
    return island_put(t->device, stream, NULL, 0, NULL, NULL, done);
}

static zds_status stream_sync(void *self, const zds_stream *stream)
{
    (void)self;
    return island_stream_sync(stream);
}

static const zds_offload_ops ops = {.struct_size = sizeof ops,
                                    .flags = ZDS_OFFLOAD_DIRECT,
                                    .space = ZDS_SPACE_TEST,
                                    .open = open_tier,
                                    .close = close_tier,
                                    .query = query,
                                    .alloc = alloc_block,
                                    .free = free_block,
                                    .adopt = adopt,
                                    .copy = copy,
                                    .fill = fill,
                                    .convert = convert,
                                    .accumulate = accumulate,
                                    .chunk_sums = chunk_sums,
                                    .stream_create = stream_create,
                                    .stream_destroy = stream_destroy,
                                    .stream_record = stream_record,
                                    .stream_sync = stream_sync};

const zds_plugin island_tier = {.struct_size = sizeof island_tier,
                                .kind = ZDS_KIND_OFFLOAD,
                                .abi_minor = ZDS_ABI_MINOR,
                                .name = "test",
                                .version = "1.0",
                                .doc = "a device without hardware, on which zds tests itself",
                                ZDS_OPTION_TABLE(options, island_options),
                                .ops = &ops};
