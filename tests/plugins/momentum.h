/* Gradient descent with momentum in three types that is right in every way; each plugin that
 * includes it has one fault. */
#ifndef TESTS_PLUGINS_MOMENTUM_H
#define TESTS_PLUGINS_MOMENTUM_H

#include <math.h>
#include <string.h>

#include "zds/plugin.h"

typedef struct momentum_options {
    double lr, momentum;
} momentum_options;

static const zds_option momentum_table[] = {
    {.name = "lr",
     .type = ZDS_OPTION_FLOAT,
     .offset = offsetof(momentum_options, lr),
     .default_value = "1e-2",
     .min = 0,
     .max = INFINITY,
     .doc = "learning rate"},
    {.name = "momentum",
     .type = ZDS_OPTION_FLOAT,
     .offset = offsetof(momentum_options, momentum),
     .default_value = "0.9",
     .min = 0,
     .max = 1,
     .doc = "what is kept of the running sum"},
};

static inline float momentum_load(const void *array, zds_dtype dtype, uint64_t i)
{
    if (dtype == ZDS_F32)
        return ((const float *)array)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)array)[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* bf16, to nearest even. */
static inline void momentum_store(void *array, uint64_t i, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)array)[i] =
        value != value ? 0x7fc0 : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline void momentum_element(const zds_tile *tile, float grad_scale, uint64_t i)
{
    float *master = tile->master, *sum = tile->states[0];
    sum[i] = (float)tile->hyper->momentum * sum[i] +
             grad_scale * momentum_load(tile->grad, tile->grad_dtype, i);
    master[i] -= (float)tile->hyper->lr * sum[i];
    if (tile->output)
        momentum_store(tile->output, i, master[i]);
}

static inline void momentum_tile(const zds_tile *tile, const zds_step_ctx *ctx)
{
    for (uint64_t i = 0; i < tile->count; i++)
        momentum_element(tile, (float)ctx->grad_scale, i);
}

/* The host and a counter that none but a faulty plugin touches. */
typedef struct momentum_self {
    const zds_host *host;
    int64_t counter;
} momentum_self;

static inline zds_status momentum_create(const zds_host *host, const void *options,
                                         const zds_optim_env *env, void **self)
{
    (void)options;
    if (env->state_dtype != ZDS_F32)
        return host->fail(host, ZDS_ERR_UNSUPPORTED, "the running sum is kept in fp32");
    momentum_self *made = host->alloc(host, sizeof *made, 0);
    if (!made)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    made->host = host;
    *self = made;
    return ZDS_OK;
}

static inline void momentum_destroy(void *self)
{
    momentum_self *made = self;
    made->host->free(made->host, made);
}

static inline zds_status momentum_describe(void *self, const zds_param *param,
                                           zds_param_needs *needs)
{
    (void)self;
    (void)param;
    zds_add_state(
        needs,
        &(zds_state_spec){.name = "momentum_buffer", .kind = ZDS_STATE_ELEMENT, .dtype = ZDS_F32});
    return ZDS_OK;
}

static inline zds_status momentum_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++)
        momentum_tile(zds_tile_at(tiles, t), ctx);
    return ZDS_OK;
}

#define MOMENTUM_DTYPES (ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16))

#define MOMENTUM_OPS                                                                               \
    .struct_size = sizeof(zds_optim_ops), .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),                 \
    .grad_dtypes = MOMENTUM_DTYPES, .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),                       \
    .output_dtypes = MOMENTUM_DTYPES, .create = momentum_create, .destroy = momentum_destroy,      \
    .describe = momentum_describe, .step = momentum_step

#define MOMENTUM_PLUGIN(vtable)                                                                    \
    .struct_size = sizeof(zds_plugin), .kind = ZDS_KIND_OPTIM, .abi_minor = ZDS_ABI_MINOR,         \
    .name = "Momentum", .version = "1.0", .doc = "for tests", .options = momentum_table,           \
    .option_stride = sizeof momentum_table[0],                                                     \
    .option_count = sizeof momentum_table / sizeof momentum_table[0],                              \
    .options_size = sizeof(momentum_options), .ops = &(vtable)

/* The whole plugin, with what differs from MOMENTUM_OPS. */
#define MOMENTUM_BUT(...)                                                                          \
    static const zds_optim_ops ops = {MOMENTUM_OPS, __VA_ARGS__};                                  \
    static const zds_plugin plugin = {MOMENTUM_PLUGIN(ops)};                                       \
    ZDS_PLUGINS(&plugin)

#endif
