/* A memory tier in a space of its own, which does everything at once and right; each plugin that
 * includes it has one fault. Its numbers are F32, BF16 and F16 by way of floats. */
#ifndef TESTS_PLUGINS_DEVICE_TIER_H
#define TESTS_PLUGINS_DEVICE_TIER_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/kernels.h"

typedef struct device {
    const zds_host *host;
    zds_status failed; /* of a stream, till it is synchronised */
    char name[16];
} device;

static inline zds_status device_open(const zds_host *host, const void *options,
                                     const zds_offload_env *env, void **self)
{
    (void)options, (void)env;
    device *d = host->alloc(host, sizeof *d, 0);
    if (!d)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory");
    d->host = host;
    *self = d;
    return ZDS_OK;
}

static inline void device_close(void *self)
{
    device *d = self;
    d->host->free(d->host, d);
}

static inline zds_status device_query(void *self, zds_offload_info *info)
{
    (void)self;
    info->device = (zds_device){.space = ZDS_SPACE_TEST};
    info->alignment = 64;
    info->reaches = ZDS_SPACE_BIT(ZDS_SPACE_HOST) | ZDS_SPACE_BIT(ZDS_SPACE_TEST);
    return ZDS_OK;
}

static inline zds_status device_alloc(void *self, uint64_t bytes, zds_block *block)
{
    const device *d = self;
    void *memory = NULL;
    if (bytes > 1u << 30 || (bytes && posix_memalign(&memory, 64, bytes) != 0))
        return d->host->fail(d->host, ZDS_ERR_MEMORY, "no room for %llu bytes",
                             (unsigned long long)bytes);
    if (memory)
        memset(memory, 0, bytes);
    block->pointer = memory;
    block->handle = memory;
    block->bytes = bytes;
    block->device = (zds_device){.space = ZDS_SPACE_TEST};
    return ZDS_OK;
}

static inline void device_free(void *self, zds_block *block)
{
    (void)self;
    free(block->handle);
}

static inline zds_status device_adopt(void *self, void *pointer, uint64_t bytes, zds_block *block)
{
    (void)self;
    block->pointer = pointer;
    block->bytes = bytes;
    block->device = (zds_device){.space = ZDS_SPACE_TEST};
    block->handle = NULL;
    return ZDS_OK;
}

/* What must be done and right before a call. */
static inline zds_status device_begin(device *d, zds_event *const *waits, size_t count,
                                      const zds_stream *stream, zds_event **done)
{
    if (done)
        *done = NULL;
    zds_status status = stream ? d->failed : ZDS_OK;
    for (size_t i = 0; i < count && !status; i++)
        if (waits[i])
            status = waits[i]->ops->wait(waits[i]);
    if (stream)
        d->failed = status;
    return status;
}

#define DEVICE_BEGIN(self, call, done)                                                             \
    device_begin(self, (call)->waits, (call)->wait_count, (call)->stream, done)

static inline zds_status device_copy(void *self, const zds_copy *c, zds_event **done)
{
    zds_status status = DEVICE_BEGIN(self, c, done);
    if (!status && c->bytes)
        memcpy(zds_end_address(&c->to), zds_end_address(&c->from), c->bytes);
    return status;
}

static inline zds_status device_fill(void *self, const zds_fill *f, zds_event **done)
{
    zds_status status = DEVICE_BEGIN(self, f, done);
    if (!status)
        kernel_fill(zds_end_address(&f->to), f->dtype, f->value, f->count);
    return status;
}

static inline zds_status device_convert(void *self, const zds_pass *p, zds_event **done)
{
    zds_status status = DEVICE_BEGIN(self, p, done);
    if (!status)
        kernel_convert(zds_end_address(&p->to), p->to_dtype, zds_end_address(&p->from),
                       p->from_dtype, p->count);
    return status;
}

static inline zds_status device_accumulate(void *self, const zds_pass *p, zds_event **done)
{
    zds_status status = DEVICE_BEGIN(self, p, done);
    if (!status)
        kernel_accumulate(zds_end_address(&p->to), p->to_dtype, zds_end_address(&p->from),
                          p->from_dtype, p->scale, p->add, p->count);
    return status;
}

static inline const zds_segment *device_segment(const zds_chunk_sums *c, size_t i)
{
    return (const zds_segment *)(const void *)((const char *)c->segments + i * c->segment_stride);
}

static inline zds_status device_chunk_sums(void *self, const zds_chunk_sums *c, zds_event **done)
{
    zds_status status = DEVICE_BEGIN(self, c, done);
    double *sums = zds_end_address(&c->sums);
    uint64_t *non_finite = zds_end_address(&c->non_finite);
    for (size_t i = 0; i < c->segment_count && !status; i++) {
        const zds_segment *s = device_segment(c, i);
        *non_finite += kernel_chunk_sums(zds_end_address(&c->from), c->dtype, s, 1, sums);
        sums += (s->count + 1023) / 1024;
    }
    return status;
}

static inline zds_status device_stream_create(void *self, zds_stream *stream)
{
    (void)self;
    stream->device = (zds_device){.space = ZDS_SPACE_TEST};
    stream->native = NULL;
    return ZDS_OK;
}

static inline void device_stream_destroy(void *self, zds_stream *stream)
{
    (void)self, (void)stream;
}

static inline zds_status device_stream_record(void *self, const zds_stream *stream,
                                              zds_event **done)
{
    (void)self, (void)stream;
    *done = NULL;
    return ZDS_OK;
}

static inline zds_status device_stream_sync(void *self, const zds_stream *stream)
{
    device *d = self;
    (void)stream;
    zds_status status = d->failed;
    d->failed = ZDS_OK;
    return status ? d->host->fail(d->host, status, "something on the stream has failed") : ZDS_OK;
}

#define DEVICE_BUT(...)                                                                            \
    static const zds_offload_ops ops = {.struct_size = sizeof ops,                                 \
                                        .flags = ZDS_OFFLOAD_DIRECT,                               \
                                        .space = ZDS_SPACE_TEST,                                   \
                                        .open = device_open,                                       \
                                        .close = device_close,                                     \
                                        .query = device_query,                                     \
                                        .alloc = device_alloc,                                     \
                                        .free = device_free,                                       \
                                        .adopt = device_adopt,                                     \
                                        .copy = device_copy,                                       \
                                        .fill = device_fill,                                       \
                                        .convert = device_convert,                                 \
                                        .accumulate = device_accumulate,                           \
                                        .chunk_sums = device_chunk_sums,                           \
                                        .stream_create = device_stream_create,                     \
                                        .stream_destroy = device_stream_destroy,                   \
                                        .stream_record = device_stream_record,                     \
                                        .stream_sync = device_stream_sync,                         \
                                        __VA_ARGS__};                                              \
    static const zds_plugin plugin = {.struct_size = sizeof plugin,                                \
                                      .kind = ZDS_KIND_OFFLOAD,                                    \
                                      .abi_minor = ZDS_ABI_MINOR,                                  \
                                      .name = "Device",                                            \
                                      .version = "1.0",                                            \
                                      .doc = "for tests",                                          \
                                      .ops = &ops};                                                \
    ZDS_PLUGINS(&plugin)

#endif
