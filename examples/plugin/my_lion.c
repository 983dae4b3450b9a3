/* An optimizer of one's own: Lion (Chen et al. 2023, "Symbolic Discovery of Optimization
 * Algorithms", algorithm 2), in fp32. Threads, ZeRO, offload and checkpoints come from the engine.
 * C11, and C++20 as well. */
#include <math.h>

#include "zds/plugin.h"

/* What a table does not set is zero. As C++, g++ -Wextra would name each such field. */
#if defined(__cplusplus) && defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif

typedef struct options {
    double lr, betas[2], weight_decay;
} options;

/* name, type, flags, offset, count, default, min, max, choices, who fills "auto", doc */
static const zds_option table[] = {
    {"lr", ZDS_OPTION_FLOAT, 0, offsetof(options, lr), 0, "1e-4", 0, INFINITY, NULL,
     "learning_rate", "learning rate"},
    {"betas", ZDS_OPTION_FLOATS, ZDS_OPTION_BELOW_MAX, offsetof(options, betas), 2, "[0.9, 0.99]",
     0, 1, NULL, NULL, "decay of the momentum: for the update, of what is kept"},
    {"weight_decay", ZDS_OPTION_FLOAT, 0, offsetof(options, weight_decay), 0, "0", 0, INFINITY,
     NULL, "weight_decay", "decoupled weight decay"},
};

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    static const zds_state_spec exp_avg = {.name = "exp_avg", .kind = ZDS_STATE_ELEMENT};
    zds_add_state(needs, &exp_avg);
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        const zds_hyper *h = tile->hyper;
        const float lr = (float)h->lr, b1 = (float)h->beta1, b2 = (float)h->beta2;
        const float keep = (float)(1 - h->lr * h->weight_decay), scale = (float)ctx->grad_scale;
        const float *grad = (const float *)tile->grad;
        float *master = (float *)tile->master, *momentum = (float *)tile->states[0];
        for (uint64_t i = 0; i < tile->count; i++) {
            const float g = grad[i] * scale, c = b1 * momentum[i] + (1 - b1) * g;
            master[i] = keep * master[i] - lr * (float)((c > 0) - (c < 0));
            momentum[i] = b2 * momentum[i] + (1 - b2) * g;
        }
    }
    return ZDS_OK;
}

enum { HOST = ZDS_SPACE_BIT(ZDS_SPACE_HOST), F32 = ZDS_DTYPE_BIT(ZDS_F32) };
static const zds_optim_ops ops = {.struct_size = sizeof ops,
                                  .spaces = HOST,
                                  .grad_dtypes = F32,
                                  .master_dtypes = F32,
                                  .output_dtypes = F32,
                                  .describe = describe,
                                  .step = step};
static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_OPTIM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "MyLion",
                                  .version = "1.0",
                                  .doc = "sign of an interpolated momentum",
                                  ZDS_OPTION_TABLE(table, options),
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);
