/* An optimizer of one's own: Lion (Chen et al. 2023, "Symbolic Discovery of Optimization
 * Algorithms", algorithm 2). All it needs is zds/plugin.h; threads, ZeRO, offload and checkpoints
 * come from the engine. */
#include <math.h>

#include "zds/plugin.h"

typedef struct lion_options {
    double lr, betas[2], weight_decay;
} lion_options;

static const zds_option table[] = {
    {"lr", ZDS_OPTION_FLOAT, 0, offsetof(lion_options, lr), 0, "1e-4", 0, INFINITY, NULL,
     "learning_rate", "learning rate"},
    {"betas", ZDS_OPTION_FLOATS, ZDS_OPTION_BELOW_MAX, offsetof(lion_options, betas), 2,
     "[0.9, 0.99]", 0, 1, NULL, NULL, "decay of the momentum: for the update, of what is kept"},
    {"weight_decay", ZDS_OPTION_FLOAT, 0, offsetof(lion_options, weight_decay), 0, "0", 0, INFINITY,
     NULL, "weight_decay", "decoupled weight decay"},
};

/* Hyperparameters come with each tile and the engine keeps the momentum, so that there is nothing
 * for an instance to hold. */
static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    (void)host, (void)options, (void)env;
    *self = NULL;
    return ZDS_OK;
}

static void destroy(void *self)
{
    (void)self;
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    needs->state_count = 1;
    needs->states[0] =
        (zds_state_spec){.name = "exp_avg", .kind = ZDS_STATE_ELEMENT, .dtype = ZDS_F32};
    return ZDS_OK;
}

static void step_tile(const zds_tile *tile, float grad_scale)
{
    const zds_hyper *h = tile->hyper;
    const float lr = (float)h->lr, b1 = (float)h->beta1, b2 = (float)h->beta2;
    const float keep = (float)(1 - h->lr * h->weight_decay);
    const float *grad = tile->grad;
    float *master = tile->master, *momentum = tile->states[0];
    for (uint64_t i = 0; i < tile->count; i++) {
        float g = grad[i] * grad_scale;
        float c = b1 * momentum[i] + (1 - b1) * g;
        master[i] = keep * master[i] - lr * (float)((c > 0) - (c < 0));
        momentum[i] = b2 * momentum[i] + (1 - b2) * g;
    }
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++)
        step_tile(zds_tile_at(tiles, t), (float)ctx->grad_scale);
    return ZDS_OK;
}

/* fp32 only; docs/plugins.md shows what gradients and output in bf16 take. */
static const zds_optim_ops ops = {.struct_size = sizeof ops,
                                  .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                  .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .create = create,
                                  .destroy = destroy,
                                  .describe = describe,
                                  .step = step};

static const zds_plugin my_lion = {.struct_size = sizeof my_lion,
                                   .kind = ZDS_KIND_OPTIM,
                                   .abi_minor = ZDS_ABI_MINOR,
                                   .name = "MyLion",
                                   .version = "1.0",
                                   .doc = "sign of an interpolated momentum",
                                   .options = table,
                                   .option_stride = sizeof table[0],
                                   .option_count = sizeof table / sizeof table[0],
                                   .options_size = sizeof(lion_options),
                                   .ops = &ops};
ZDS_PLUGINS(&my_lion);
