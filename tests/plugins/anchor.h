/* An optimizer whose state starts as the parameter, whose weights to keep are that state, and which
 * has three betas: a step takes it to beta3 times what it is and down the gradient, and the anchor
 * beta1 of its way after it. */
#ifndef TESTS_PLUGINS_ANCHOR_H
#define TESTS_PLUGINS_ANCHOR_H

#include "momentum.h"

typedef struct anchor_options {
    double lr, betas[3];
} anchor_options;

static const zds_option anchor_table[] = {{.name = "lr",
                                           .type = ZDS_OPTION_FLOAT,
                                           .offset = offsetof(anchor_options, lr),
                                           .default_value = "1e-2",
                                           .min = 0,
                                           .max = INFINITY,
                                           .doc = "learning rate"},
                                          {.name = "betas",
                                           .type = ZDS_OPTION_FLOATS,
                                           .offset = offsetof(anchor_options, betas),
                                           .count = 3,
                                           .default_value = "[0.5, 0.75, 0.25]",
                                           .min = 0,
                                           .max = 1,
                                           .doc = "how far the anchor follows; not used; how much "
                                                  "of a parameter stays"}};

static inline zds_status anchor_describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    zds_state_spec spec = {0};
    spec.name = "anchor";
    spec.kind = ZDS_STATE_ELEMENT;
    spec.dtype = ZDS_F32;
    spec.starts = ZDS_STARTS_AS_PARAM;
    zds_add_state(needs, &spec);
    needs->eval_state = 1;
    return ZDS_OK;
}

static inline zds_status anchor_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        float *master = tile->master, *anchor = tile->states[0];
        for (uint64_t i = 0; i < tile->count; i++) {
            float g = (float)ctx->grad_scale * momentum_load(tile->grad, tile->grad_dtype, i);
            master[i] = (float)tile->hyper->beta3 * master[i] - (float)tile->hyper->lr * g;
            anchor[i] += (float)tile->hyper->beta1 * (master[i] - anchor[i]);
            if (tile->output)
                momentum_store(tile->output, i, master[i]);
        }
    }
    return ZDS_OK;
}

static const zds_optim_ops anchor_ops = {
    .struct_size = sizeof anchor_ops,
    .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
    .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16),
    .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
    .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16),
    .describe = anchor_describe,
    .step = anchor_step};

static const zds_plugin anchor_plugin = {.struct_size = sizeof anchor_plugin,
                                         .kind = ZDS_KIND_OPTIM,
                                         .abi_minor = ZDS_ABI_MINOR,
                                         .name = "Anchor",
                                         .version = "1.0",
                                         .doc = "for tests",
                                         ZDS_OPTION_TABLE(anchor_table, anchor_options),
                                         .ops = &anchor_ops};

#endif
