/* A plain optimizer that is right in every way; each plugin beside it differs in one thing. */
#ifndef TESTS_PLUGINS_SAMPLE_H
#define TESTS_PLUGINS_SAMPLE_H

#include <math.h>

#include "zds/plugin.h"

typedef struct sample_options {
    double lr;
    int64_t steps;
} sample_options;

static const zds_option sample_table[] = {
    {.name = "lr",
     .type = ZDS_OPTION_FLOAT,
     .offset = offsetof(sample_options, lr),
     .default_value = "1e-3",
     .min = 0,
     .max = INFINITY,
     .auto_from = "learning_rate",
     .doc = "learning rate"},
    {.name = "steps",
     .type = ZDS_OPTION_INT,
     .offset = offsetof(sample_options, steps),
     .default_value = "3",
     .min = 1,
     .max = 10,
     .doc = "a number"},
};

static inline zds_status sample_create(const zds_host *host, const void *options,
                                       const zds_optim_env *env, void **self)
{
    (void)options;
    (void)env;
    *self = host->alloc(host, 64, 0);
    ((const zds_host **)*self)[0] = host;
    return ZDS_OK;
}

static inline void sample_destroy(void *self)
{
    const zds_host *host = *(const zds_host **)self;
    host->free(host, self);
}

static inline zds_status sample_describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self;
    (void)param;
    needs->state_count = 0;
    return ZDS_OK;
}

static inline zds_status sample_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        const float *grad = tile->grad;
        float *master = tile->master;
        for (uint64_t i = 0; i < tile->count; i++)
            master[i] -= (float)(tile->hyper->lr * ctx->grad_scale * grad[i]);
    }
    return ZDS_OK;
}

#define SAMPLE_OPS                                                                                 \
    .struct_size = sizeof(zds_optim_ops), .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),                 \
    .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32), .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),                \
    .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32), .create = sample_create, .destroy = sample_destroy,   \
    .describe = sample_describe, .step = sample_step

#define SAMPLE_PLUGIN                                                                              \
    .struct_size = sizeof(zds_plugin), .kind = ZDS_KIND_OPTIM, .abi_minor = ZDS_ABI_MINOR,         \
    .name = "Sample", .version = "1.0", .doc = "for tests", .options = sample_table,               \
    .option_stride = sizeof sample_table[0],                                                       \
    .option_count = sizeof sample_table / sizeof sample_table[0],                                  \
    .options_size = sizeof(sample_options), .ops = &sample_ops

static const zds_optim_ops sample_ops = {SAMPLE_OPS};

#endif
