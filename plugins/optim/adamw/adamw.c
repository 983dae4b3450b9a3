/* AdamW and Adam: options and life of an instance. The formula is in adamw_kernel.c; AdamW8bit is
 * in adamw8bit.c.
 *
 * What each type means is DeepSpeed 0.19's: both decouple the weight decay; only type Adam can be
 * told not to (adam_w_mode false), AdamW ignores that; torch_adam takes torch's defaults and
 * variants. */
#include "optim/adamw/adamw.h"

typedef struct adam_options {
    double lr, betas[2], eps, weight_decay, max_grad_norm;
    bool bias_correction, adam_w_mode, torch_adam, amsgrad, maximize, decoupled_weight_decay;
    bool fp32_optimizer_states, set_grad_none;
} adam_options;

#define ADAM_OPTIONS(adam_w_mode_flags, adam_w_mode_doc, weight_decay_doc)                         \
    OPTION_LR(adam_options, "0.001"),                                                              \
        OPTION_BETAS(adam_options, "[0.9, 0.999]",                                                 \
                     "decay of the running means of the gradient and of its square"),              \
        OPTION_EPS(adam_options, "1e-8", "added to the denominator, outside the root"),            \
        {.name = "weight_decay",                                                                   \
         .type = ZDS_OPTION_FLOAT,                                                                 \
         .flags = ZDS_OPTION_NULLABLE,                                                             \
         .offset = offsetof(adam_options, weight_decay),                                           \
         .default_value = "null",                                                                  \
         .min = 0,                                                                                 \
         .max = INFINITY,                                                                          \
         .auto_from = "weight_decay",                                                              \
         .doc = weight_decay_doc},                                                                 \
        OPTION_FLAG(adam_options, bias_correction, "true",                                         \
                    "divide the running means by 1 - beta^step; false is refused with "            \
                    "torch_adam"),                                                                 \
        {.name = "adam_w_mode",                                                                    \
         .type = ZDS_OPTION_BOOL,                                                                  \
         .flags = adam_w_mode_flags,                                                               \
         .offset = offsetof(adam_options, adam_w_mode),                                            \
         .default_value = "true",                                                                  \
         .doc = adam_w_mode_doc},                                                                  \
        OPTION_FLAG(adam_options, torch_adam, "false",                                             \
                    "take torch's defaults, and allow amsgrad and maximize"),                      \
        OPTION_FLAG(adam_options, amsgrad, "false",                                                \
                    "divide by the largest mean square so far; only with torch_adam"),             \
        OPTION_FLAG(adam_options, maximize, "false",                                               \
                    "climb instead of descend; only with torch_adam"),                             \
        OPTION_NO_EFFECT(                                                                          \
            adam_options, fp32_optimizer_states, "true",                                           \
            "bf16.bf16_optimizer_states decides in which type the running means are kept"),        \
        OPTION_NO_EFFECT(                                                                          \
            adam_options, set_grad_none, "true",                                                   \
            "the engine owns the gradients, and never clears them in a pass of its own"),          \
        OPTION_MAX_GRAD_NORM(adam_options)

static const zds_option adamw_options[] = {ADAM_OPTIONS(
    ZDS_OPTION_NO_EFFECT, "AdamW always decouples the weight decay; use type Adam for the other",
    "decoupled weight decay; null: 0, with torch_adam 0.01")};
static const zds_option adam_options_table[] = {
    ADAM_OPTIONS(
        0, "true: weight decay acts on the weight (AdamW); false: it is added to the gradient (L2)",
        "weight decay; null: 0, with torch_adam and adam_w_mode 0.01"),
    OPTION_FLAG(adam_options, decoupled_weight_decay, "false",
                "weight decay acts on the weight; only with torch_adam and without adam_w_mode")};

static zds_status check(const zds_host *host, const adam_options *o)
{
    zds_status status = elementwise_no_max_grad_norm(host, o->max_grad_norm);
    if (status)
        return status;
    if (o->amsgrad && !o->torch_adam)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "amsgrad needs \"torch_adam\": true; write that, or remove amsgrad");
    if (o->maximize && !o->torch_adam)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "maximize needs \"torch_adam\": true; write that, or remove maximize");
    if (o->decoupled_weight_decay && (!o->torch_adam || o->adam_w_mode))
        return host->fail(
            host, ZDS_ERR_CONFIG,
            "decoupled_weight_decay is of torch's Adam: write \"torch_adam\": true and "
            "\"adam_w_mode\": false, or remove it: adam_w_mode does the same");
    if (!o->bias_correction && o->torch_adam)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "torch_adam always corrects the bias; remove bias_correction, or "
                          "torch_adam");
    return ZDS_OK;
}

/* Of the group; torch's AdamW has a default of its own where there is none. */
static double decay_of(const adam_options *o, const zds_hyper *hyper, bool adamw)
{
    if (!isnan(hyper->weight_decay))
        return hyper->weight_decay;
    return o->torch_adam && adamw ? 0.01 : 0;
}

static void constants(const adam_options *o, const zds_hyper *hyper, bool adamw, int64_t step,
                      adam_constants *out)
{
    zds_hyper h = *hyper;
    h.weight_decay = decay_of(o, hyper, adamw);
    *out = adam_constants_of(&h, o->eps, step, adamw || o->decoupled_weight_decay);
    if (!o->bias_correction) {
        out->rate = (float)hyper->lr;
        out->inverse_sqrt_bias2 = 1;
    }
}

static void adamw_constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                            void *out)
{
    constants(optim->options, tile->hyper, true, step, out);
}

static void adam_own_constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                               void *out)
{
    const adam_options *o = optim->options;
    constants(o, tile->hyper, o->adam_w_mode, step, out);
}

zds_status adam_create_kernels(const zds_host *host, const zds_optim_env *env,
                               elementwise_optim *plan, bool with_maximum, void **self)
{
    static const char *const states[] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
    static const elementwise_fn plain[] = SIMD_TABLE(adam_run);
    static const elementwise_fn amsgrad[] = SIMD_TABLE(adam_run_amsgrad);
    _Static_assert(sizeof(adam_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    plan->states = states;
    plan->state_count = with_maximum ? 3 : 2;
    return elementwise_create(host, env, plan, with_maximum ? amsgrad : plain, self);
}

static zds_status create(const zds_host *host, const adam_options *o, const zds_optim_env *env,
                         elementwise_optim *plan, void **self)
{
    zds_status status = check(host, o);
    if (status)
        return status;
    plan->options = o;
    plan->maximize = o->maximize;
    return adam_create_kernels(host, env, plan, o->amsgrad, self);
}

static zds_status adamw_create(const zds_host *host, const void *options, const zds_optim_env *env,
                               void **self)
{
    return create(host, options, env, &(elementwise_optim){.constants = adamw_constants}, self);
}

static zds_status adam_create(const zds_host *host, const void *options, const zds_optim_env *env,
                              void **self)
{
    return create(host, options, env, &(elementwise_optim){.constants = adam_own_constants}, self);
}

static const zds_optim_ops adamw_ops = {ELEMENTWISE_OPS(adamw_create),
                                        .describe = elementwise_describe};
static const zds_optim_ops adam_ops = {ELEMENTWISE_OPS(adam_create),
                                       .describe = elementwise_describe};

static const zds_plugin adamw_plugin = {OPTIM_PLUGIN(
    "AdamW", adamw_options, adam_options, adamw_ops, "Adam with decoupled weight decay")};
static const zds_plugin adam_plugin = {OPTIM_PLUGIN(
    "Adam", adam_options_table, adam_options, adam_ops, "Adam, with decoupled weight decay or L2")};

ZDS_PLUGINS(&adamw_plugin, &adam_plugin, &muadam_plugin, &muadamw_plugin, &adamw8bit_plugin);
