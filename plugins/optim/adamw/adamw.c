/* AdamW and Adam: options and life of an instance. The formula is in adamw_kernel.h.
 *
 * What each type means is DeepSpeed 0.19's: both decouple the weight decay; only type Adam can be
 * told not to (adam_w_mode false), AdamW ignores that; torch_adam takes torch's defaults and
 * variants. */
#include "optim/adamw/adamw.h"

#include <math.h>
#include <stddef.h>

typedef struct adam_options {
    double lr, betas[2], eps, weight_decay, max_grad_norm;
    bool bias_correction, adam_w_mode, torch_adam, amsgrad, maximize;
    bool fp32_optimizer_states, set_grad_none;
} adam_options;

typedef struct adam_instance {
    const zds_host *host;
    const adam_options *options;
    zds_dtype state_dtype;
    bool l2;
    double weight_decay; /* where the group has none */
    elementwise_fn run;
} adam_instance;

#define AT(field) offsetof(adam_options, field)

#define ADAM_OPTIONS(adam_w_mode_flags, adam_w_mode_doc, weight_decay_doc)                         \
    {                                                                                              \
        {.name = "lr",                                                                             \
         .type = ZDS_OPTION_FLOAT,                                                                 \
         .offset = AT(lr),                                                                         \
         .default_value = "0.001",                                                                 \
         .min = 0,                                                                                 \
         .max = INFINITY,                                                                          \
         .auto_from = "learning_rate",                                                             \
         .doc = "learning rate"},                                                                  \
            {.name = "betas",                                                                      \
             .type = ZDS_OPTION_FLOATS,                                                            \
             .flags = ZDS_OPTION_BELOW_MAX,                                                        \
             .offset = AT(betas),                                                                  \
             .count = 2,                                                                           \
             .default_value = "[0.9, 0.999]",                                                      \
             .min = 0,                                                                             \
             .max = 1,                                                                             \
             .auto_from = "adam_beta1, adam_beta2",                                                \
             .doc = "decay of the running means of the gradient and of its square"},               \
            {.name = "eps",                                                                        \
             .type = ZDS_OPTION_FLOAT,                                                             \
             .offset = AT(eps),                                                                    \
             .default_value = "1e-8",                                                              \
             .min = 0,                                                                             \
             .max = INFINITY,                                                                      \
             .auto_from = "adam_epsilon",                                                          \
             .doc = "added to the denominator, outside the root"},                                 \
            {.name = "weight_decay",                                                               \
             .type = ZDS_OPTION_FLOAT,                                                             \
             .flags = ZDS_OPTION_NULLABLE,                                                         \
             .offset = AT(weight_decay),                                                           \
             .default_value = "null",                                                              \
             .min = 0,                                                                             \
             .max = INFINITY,                                                                      \
             .auto_from = "weight_decay",                                                          \
             .doc = weight_decay_doc},                                                             \
            {.name = "bias_correction",                                                            \
             .type = ZDS_OPTION_BOOL,                                                              \
             .offset = AT(bias_correction),                                                        \
             .default_value = "true",                                                              \
             .doc =                                                                                \
                 "divide the running means by 1 - beta^step; false is refused with torch_adam"},   \
            {.name = "adam_w_mode",                                                                \
             .type = ZDS_OPTION_BOOL,                                                              \
             .flags = adam_w_mode_flags,                                                           \
             .offset = AT(adam_w_mode),                                                            \
             .default_value = "true",                                                              \
             .doc = adam_w_mode_doc},                                                              \
            {.name = "torch_adam",                                                                 \
             .type = ZDS_OPTION_BOOL,                                                              \
             .offset = AT(torch_adam),                                                             \
             .default_value = "false",                                                             \
             .doc = "take torch's defaults, and allow amsgrad and maximize"},                      \
            {.name = "amsgrad",                                                                    \
             .type = ZDS_OPTION_BOOL,                                                              \
             .offset = AT(amsgrad),                                                                \
             .default_value = "false",                                                             \
             .doc = "divide by the largest mean square so far; only with torch_adam"},             \
            {.name = "maximize",                                                                   \
             .type = ZDS_OPTION_BOOL,                                                              \
             .offset = AT(maximize),                                                               \
             .default_value = "false",                                                             \
             .doc = "climb instead of descend; only with torch_adam"},                             \
            {.name = "fp32_optimizer_states",                                                      \
             .type = ZDS_OPTION_BOOL,                                                              \
             .flags = ZDS_OPTION_NO_EFFECT,                                                        \
             .offset = AT(fp32_optimizer_states),                                                  \
             .default_value = "true",                                                              \
             .doc =                                                                                \
                 "bf16.bf16_optimizer_states decides in which type the running means are kept"},   \
            {.name = "set_grad_none",                                                              \
             .type = ZDS_OPTION_BOOL,                                                              \
             .flags = ZDS_OPTION_NO_EFFECT,                                                        \
             .offset = AT(set_grad_none),                                                          \
             .default_value = "true",                                                              \
             .doc = "the engine owns the gradients, and never clears them by a pass of its own"},  \
            {.name = "max_grad_norm",                                                              \
             .type = ZDS_OPTION_FLOAT,                                                             \
             .flags = ZDS_OPTION_NULLABLE,                                                         \
             .offset = AT(max_grad_norm),                                                          \
             .default_value = "null",                                                              \
             .min = -INFINITY,                                                                     \
             .max = INFINITY,                                                                      \
             .doc = "removed: any number is refused; use gradient_clipping at the top level"},     \
    }

static const zds_option adamw_options[] = ADAM_OPTIONS(
    ZDS_OPTION_NO_EFFECT, "AdamW always decouples the weight decay; use type Adam for the other",
    "decoupled weight decay; null: 0, with torch_adam 0.01");
static const zds_option adam_options_table[] = ADAM_OPTIONS(
    0, "true: weight decay acts on the weight (AdamW); false: it is added to the gradient (L2)",
    "weight decay; null: 0, with torch_adam and adam_w_mode 0.01");

static zds_status create(const zds_host *host, const adam_options *o, const zds_optim_env *env,
                         bool decoupled, double weight_decay, void **self)
{
    static const elementwise_fn plain[] = SIMD_TABLE(adam_run);
    static const elementwise_fn amsgrad[] = SIMD_TABLE(adam_run_amsgrad);
    if (!isnan(o->max_grad_norm))
        return host->fail(host, ZDS_ERR_CONFIG,
                          "max_grad_norm is not an option of the optimizer any more; write "
                          "\"gradient_clipping\" at the top level of ds_config instead");
    if (o->amsgrad && !o->torch_adam)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "amsgrad needs \"torch_adam\": true; write that, or remove amsgrad");
    if (o->maximize && !o->torch_adam)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "maximize needs \"torch_adam\": true; write that, or remove maximize");
    if (!o->bias_correction && o->torch_adam)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "torch_adam always corrects the bias; remove bias_correction, or "
                          "torch_adam");
    int level = 0;
    zds_status status = elementwise_create(host, env, &level);
    if (status)
        return status;
    adam_instance *adam = host->alloc(host, sizeof *adam, 0);
    if (!adam)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    *adam = (adam_instance){.host = host,
                            .options = o,
                            .state_dtype = env->state_dtype,
                            .l2 = !decoupled,
                            .weight_decay = weight_decay,
                            .run = (o->amsgrad ? amsgrad : plain)[level]};
    *self = adam;
    return ZDS_OK;
}

static zds_status adamw_create(const zds_host *host, const void *options, const zds_optim_env *env,
                               void **self)
{
    const adam_options *o = options;
    return create(host, o, env, true, o->torch_adam ? 0.01 : 0.0, self);
}

static zds_status adam_create(const zds_host *host, const void *options, const zds_optim_env *env,
                              void **self)
{
    const adam_options *o = options;
    return create(host, o, env, o->adam_w_mode, o->torch_adam && o->adam_w_mode ? 0.01 : 0.0, self);
}

static void destroy(void *self)
{
    adam_instance *adam = self;
    adam->host->free(adam->host, adam);
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    static const char *const names[] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
    const adam_instance *adam = self;
    (void)param;
    elementwise_describe(needs, adam->state_dtype, adam->options->amsgrad ? 3 : 2, names);
    return ZDS_OK;
}

static adam_constants constants_of(const adam_instance *adam, const zds_hyper *hyper, int64_t step)
{
    double beta1 = hyper->beta1, beta2 = hyper->beta2;
    double decay = isnan(hyper->weight_decay) ? adam->weight_decay : hyper->weight_decay;
    double bias1 = 1, bias2 = 1;
    if (adam->options->bias_correction) {
        bias1 -= pow(beta1, (double)step);
        bias2 -= pow(beta2, (double)step);
    }
    return (adam_constants){.beta1 = (float)beta1,
                            .one_minus_beta1 = (float)(1 - beta1),
                            .beta2 = (float)beta2,
                            .one_minus_beta2 = (float)(1 - beta2),
                            .eps = (float)adam->options->eps,
                            .inverse_sqrt_bias2 = (float)(1 / sqrt(bias2)),
                            .rate = (float)(hyper->lr / bias1),
                            .decay = (float)(hyper->lr * decay),
                            .weight_decay = (float)decay,
                            .l2 = adam->l2};
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const adam_instance *adam = self;
    const zds_hyper *hyper = NULL;
    adam_constants constants;
    for (size_t i = 0; i < tiles->count; i++) {
        const zds_tile *tile = zds_tile_at(tiles, i);
        if (tile->hyper != hyper) {
            hyper = tile->hyper;
            constants = constants_of(adam, hyper, ctx->step);
        }
        elementwise e = elementwise_tile(tile, ctx);
        if (adam->options->maximize)
            e.grad_scale = -e.grad_scale;
        e.state_dtype = adam->state_dtype;
        e.constants = &constants;
        adam->run(&e);
    }
    return ZDS_OK;
}

#define OPS(create_fn)                                                                             \
    {                                                                                              \
        .struct_size = sizeof(zds_optim_ops), .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),             \
        .grad_dtypes = ELEMENTWISE_DTYPES, .master_dtypes = ELEMENTWISE_DTYPES,                    \
        .output_dtypes = ELEMENTWISE_DTYPES, .create = (create_fn), .destroy = destroy,            \
        .describe = describe, .step = step                                                         \
    }

static const zds_optim_ops adamw_ops = OPS(adamw_create);
static const zds_optim_ops adam_ops = OPS(adam_create);

#define PLUGIN(type, table, vtable, text)                                                          \
    {                                                                                              \
        .struct_size = sizeof(zds_plugin), .kind = ZDS_KIND_OPTIM, .abi_minor = ZDS_ABI_MINOR,     \
        .name = type, .version = "1.0", .doc = text, .options = table,                             \
        .option_stride = sizeof table[0], .option_count = sizeof table / sizeof table[0],          \
        .options_size = sizeof(adam_options), .ops = &vtable                                       \
    }

static const zds_plugin adamw_plugin =
    PLUGIN("AdamW", adamw_options, adamw_ops, "Adam with decoupled weight decay");
static const zds_plugin adam_plugin =
    PLUGIN("Adam", adam_options_table, adam_ops, "Adam, with decoupled weight decay or L2");

ZDS_PLUGINS(&adamw_plugin, &adam_plugin);
