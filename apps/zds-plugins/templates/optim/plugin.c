/* @NAME@: an optimizer for zds. */
#include <math.h>
#include <string.h>

#include "zds/plugin.h"

/* === options: the keys of `params` in ds_config === */

typedef struct options {
    double lr, momentum, weight_decay;
} options;

static const zds_option table[] = {
    {.name = "lr",
     .type = ZDS_OPTION_FLOAT,
     .offset = offsetof(options, lr),
     .default_value = "1e-3",
     .max = INFINITY,
     .auto_from = "learning_rate",
     .doc = "learning rate"},
    {.name = "momentum",
     .type = ZDS_OPTION_FLOAT,
     .flags = ZDS_OPTION_BELOW_MAX,
     .offset = offsetof(options, momentum),
     .default_value = "0.9",
     .max = 1,
     .doc = "what is kept of the running sum of gradients"},
    {.name = "weight_decay",
     .type = ZDS_OPTION_FLOAT,
     .offset = offsetof(options, weight_decay),
     .default_value = "0",
     .max = INFINITY,
     .auto_from = "weight_decay",
     .doc = "added to the gradient, times the weight"},
};

/* === an instance === */

/* Hyperparameters come with each tile and the host keeps the states, so that there is nothing for
 * an instance to hold. Refuse here what options only together make impossible. */
static zds_status create(const zds_host *host, const void *opts, const zds_optim_env *env,
                         void **self)
{
    (void)opts;
    if (env->state_dtype != ZDS_F32)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "@NAME@ keeps its states in fp32; remove bf16_optimizer_states");
    *self = NULL;
    return ZDS_OK;
}

static void destroy(void *self)
{
    (void)self;
}

/* The states of one parameter: names as torch has them, where it does. */
static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self;
    (void)param;
    zds_add_state(needs, &(zds_state_spec){.name = "momentum_buffer",
                                           .kind = ZDS_STATE_ELEMENT,
                                           .dtype = ZDS_F32,
                                           .initial = 0});
    return ZDS_OK;
}

/* === numbers of 16 bits === */

static float from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To nearest, ties to even; a NaN stays one. */
static uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return value != value ? 0x7fc0 : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* === the step === */

/* One weight: v = momentum v + g + weight_decay w, w = w - lr v. */
static float update(const zds_hyper *h, float weight, float grad, float *velocity)
{
    *velocity = (float)h->momentum * *velocity + grad + (float)h->weight_decay * weight;
    return weight - (float)h->lr * *velocity;
}

static void step_tile(const zds_tile *tile, float grad_scale)
{
    float *master = tile->master, *velocity = tile->states[0];
    const float *grad32 = tile->grad_dtype == ZDS_F32 ? tile->grad : NULL;
    const uint16_t *grad16 = tile->grad;
    uint16_t *output = tile->output; /* NULL where the weights themselves are fp32 */
    for (uint64_t i = 0; i < tile->count; i++) {
        const float grad = grad_scale * (grad32 ? grad32[i] : from_bf16(grad16[i]));
        master[i] = update(tile->hyper, master[i], grad, &velocity[i]);
        if (output)
            output[i] = to_bf16(master[i]);
    }
}

/* Called by several threads at once, each with tiles of its own. */
static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++)
        step_tile(zds_tile_at(tiles, t), (float)ctx->grad_scale);
    return ZDS_OK;
}

/* === what zds sees === */

#define FLOATS (ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16))

static const zds_optim_ops ops = {.struct_size = sizeof ops,
                                  .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                  .grad_dtypes = FLOATS,
                                  .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .output_dtypes = FLOATS,
                                  .create = create,
                                  .destroy = destroy,
                                  .describe = describe,
                                  .step = step};

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_OPTIM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "@NAME@",
                                  .version = "0.1",
                                  .doc = "gradient descent with momentum",
                                  ZDS_OPTION_TABLE(table, options),
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);
