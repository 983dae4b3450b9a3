/* What docs/cuda_trainers.md uses of CUDA's runtime, done by the island (tests/plugins/island):
 * streams whose work is late, memory that the host cannot touch, and in place of kernels the passes
 * that a tier has. The file of the island is in the environment, ISLAND. */
#ifndef TESTS_CUDA_RUNTIME_H
#define TESTS_CUDA_RUNTIME_H

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "zds/plugin.h"

typedef void *cudaStream_t;
typedef int cudaError_t;
enum { cudaSuccess = 0, cudaStreamNonBlocking = 1 };

/* The one device, opened by its first call. */
static const zds_offload_ops *cuda;
static void *cuda_self;
static const zds_device cuda_device = {ZDS_SPACE_TEST, 0};

static zds_status cuda_fail(const zds_host *host, zds_status status, const char *format, ...)
{
    va_list arguments;
    (void)host;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    return status;
}

static void *cuda_alloc(const zds_host *host, size_t bytes, size_t align)
{
    (void)host, (void)align;
    return calloc(1, bytes);
}

static void cuda_free(const zds_host *host, void *pointer)
{
    (void)host;
    free(pointer);
}

static void cuda_do(zds_status status)
{
    if (status != ZDS_OK)
        exit(90 + status);
}

static inline cudaError_t cudaSetDevice(int ordinal)
{
    static const zds_host host = {.struct_size = sizeof host,
                                  .threads = 1,
                                  .fail = cuda_fail,
                                  .alloc = cuda_alloc,
                                  .free = cuda_free};
    static const struct {
        int64_t seed, delay_us, fail_after;
    } options = {7, 300, 0};
    const zds_offload_env env = {.struct_size = sizeof env, .device = ordinal};
    void *file = dlopen(getenv("ISLAND"), RTLD_NOW);
    const zds_plugin *const *list = file ? dlsym(file, "zds_plugin_v1") : NULL;
    while (list && *list && (*list)->kind != ZDS_KIND_OFFLOAD)
        list++;
    if (!list || !*list || ordinal != cuda_device.ordinal)
        exit(90);
    cuda = (*list)->ops;
    cuda_do(cuda->open(&host, &options, &env, &cuda_self));
    return cudaSuccess;
}

static inline zds_stream cuda_stream(cudaStream_t native)
{
    return (zds_stream){.struct_size = sizeof(zds_stream), .device = cuda_device, .native = native};
}

static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *native, unsigned flags)
{
    zds_stream stream = {.struct_size = sizeof stream};
    (void)flags;
    cuda_do(cuda->stream_create(cuda_self, &stream));
    *native = stream.native;
    return cudaSuccess;
}

static inline cudaError_t cudaStreamSynchronize(cudaStream_t native)
{
    const zds_stream stream = cuda_stream(native);
    cuda_do(cuda->stream_sync(cuda_self, &stream));
    return cudaSuccess;
}

static inline cudaError_t cudaStreamDestroy(cudaStream_t native)
{
    zds_stream stream = cuda_stream(native);
    cudaStreamSynchronize(native);
    cuda->stream_destroy(cuda_self, &stream);
    return cudaSuccess;
}

/* Zeroed, and what it was set to once the stream is there. */
static inline float *cuda_floats(uint64_t count)
{
    static zds_block block;
    block = (zds_block){.struct_size = sizeof block};
    cuda_do(cuda->alloc(cuda_self, count * sizeof(float), &block));
    return block.pointer;
}

static inline void cuda_fill(float *to, double value, uint64_t count, cudaStream_t native)
{
    const zds_stream stream = cuda_stream(native);
    const zds_fill fill = {.struct_size = sizeof fill,
                           .to = {.pointer = to, .device = cuda_device},
                           .dtype = ZDS_F32,
                           .value = value,
                           .count = count,
                           .stream = &stream};
    cuda_do(cuda->fill(cuda_self, &fill, NULL));
}

/* to = (add ? to : 0) + scale from */
static inline void cuda_add(float *to, const float *from, double scale, bool add, uint64_t count,
                            cudaStream_t native)
{
    const zds_stream stream = cuda_stream(native);
    const zds_pass pass = {.struct_size = sizeof pass,
                           .from = {.pointer = (void *)(uintptr_t)from, .device = cuda_device},
                           .to = {.pointer = to, .device = cuda_device},
                           .from_dtype = ZDS_F32,
                           .to_dtype = ZDS_F32,
                           .count = count,
                           .scale = scale,
                           .add = add,
                           .stream = &stream};
    cuda_do(cuda->accumulate(cuda_self, &pass, NULL));
}

#endif
