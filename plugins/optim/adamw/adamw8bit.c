/* AdamW8bit: options, and which parameters get states of 8 bits. The formula is in
 * adamw8bit_kernel.c; options and defaults are those of bitsandbytes' AdamW8bit. Small parameters
 * and, by the stable embedding rule (Dettmers et al. 2022, section 2.3), embeddings keep states of
 * the usual type: they are AdamW's. */
#include "optim/adamw/adamw8bit.h"

#include "optim/adamw/adamw.h"

typedef struct adamw8bit_options {
    double lr, betas[2], eps, weight_decay;
    int64_t optim_bits, min_8bit_size;
    bool stable_embedding, amsgrad, is_paged;
} adamw8bit_options;

static const zds_option options_table[] = {
    OPTION_LR(adamw8bit_options, "0.001"),
    OPTION_BETAS(adamw8bit_options, "[0.9, 0.999]",
                 "decay of the running means of the gradient and of its square"),
    OPTION_EPS(adamw8bit_options, "1e-8", "added to the denominator, outside the root"),
    OPTION_WEIGHT_DECAY_OF(adamw8bit_options, "0.01", "decoupled weight decay"),
    {.name = "min_8bit_size",
     .type = ZDS_OPTION_INT,
     .offset = offsetof(adamw8bit_options, min_8bit_size),
     .default_value = "4096",
     .min = 0,
     .max = INFINITY,
     .doc = "parameters with fewer elements keep states of 32 bits"},
    OPTION_FLAG(adamw8bit_options, stable_embedding, "true",
                "embeddings keep states of 32 bits, as bitsandbytes' StableEmbedding does"),
    {.name = "optim_bits",
     .type = ZDS_OPTION_INT,
     .flags = ZDS_OPTION_NO_EFFECT,
     .offset = offsetof(adamw8bit_options, optim_bits),
     .default_value = "32",
     .min = 32,
     .max = 32,
     .doc = "bitsandbytes takes 32 only, and uses 8 bits all the same"},
    OPTION_FLAG(adamw8bit_options, amsgrad, "false", "refused if true, as bitsandbytes does"),
    OPTION_NO_EFFECT(adamw8bit_options, is_paged, "false",
                     "zero_optimization.offload_optimizer decides where states rest"),
};

typedef struct adamw8bit {
    const zds_host *host;
    const adamw8bit_options *options;
    void *usual, *blocks; /* element-wise instances: states of the usual type, and of 8 bits */
} adamw8bit;

static void usual_constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                            void *out)
{
    const adamw8bit_options *o = optim->options;
    *(adam_constants *)out = adam_constants_of(tile->hyper, o->eps, step, true);
}

static void blocks_constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                             void *out)
{
    adam_constants c;
    usual_constants(optim, tile, step, &c);
    *(adamw8bit_constants *)out =
        (adamw8bit_constants){.beta1 = c.beta1,
                              .one_minus_beta1 = c.one_minus_beta1,
                              .beta2 = c.beta2,
                              .one_minus_beta2 = c.one_minus_beta2,
                              .eps = c.eps,
                              .inverse_sqrt_bias2 = c.inverse_sqrt_bias2,
                              .rate = c.rate,
                              .keep = (float)(1 - tile->hyper->lr * tile->hyper->weight_decay)};
}

static void destroy(void *self)
{
    adamw8bit *a = self;
    if (a->usual)
        elementwise_destroy(a->usual);
    if (a->blocks)
        elementwise_destroy(a->blocks);
    a->host->free(a->host, a);
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const elementwise_fn blocks[] = SIMD_TABLE(adamw8bit_run);
    _Static_assert(sizeof(adamw8bit_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const adamw8bit_options *o = options;
    if (o->amsgrad)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "AdamW8bit has no amsgrad variant; remove amsgrad, or use AdamW");
    adamw8bit *a = host->alloc(host, sizeof *a, 0);
    if (!a)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    *a = (adamw8bit){.host = host, .options = o};
    elementwise_optim plan = {.options = o, .constants = usual_constants};
    zds_status status = adam_create_kernels(host, env, &plan, false, &a->usual);
    plan.constants = blocks_constants;
    if (!status)
        status = elementwise_create(host, env, &plan, blocks, &a->blocks);
    if (status) {
        destroy(a);
        return status;
    }
    *self = a;
    return ZDS_OK;
}

static bool in_blocks(const adamw8bit *a, const zds_param *param)
{
    return param->numel >= (uint64_t)a->options->min_8bit_size &&
           !(a->options->stable_embedding && param->role == ZDS_ROLE_EMBEDDING);
}

/* Codes and scales of zero bytes are a state of zeros. The names are bitsandbytes'. */
static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    static const char *const codes[] = {"state1", "state2"}, *const scales[] = {"absmax1",
                                                                                "absmax2"};
    const adamw8bit *a = self;
    if (!in_blocks(a, param))
        return elementwise_describe(a->usual, param, needs);
    for (int i = 0; i < 2; i++)
        zds_add_state(needs, &(zds_state_spec){.name = codes[i],
                                               .kind = ZDS_STATE_ELEMENT,
                                               .dtype = ZDS_U8,
                                               .version = ADAMW8BIT_VERSION});
    for (int i = 0; i < 2; i++)
        zds_add_state(needs, &(zds_state_spec){.name = scales[i],
                                               .kind = ZDS_STATE_BLOCK,
                                               .dtype = ZDS_F32,
                                               .block = ADAMW8BIT_BLOCK,
                                               .bytes = sizeof(float),
                                               .version = ADAMW8BIT_VERSION});
    needs->granularity = ADAMW8BIT_BLOCK;
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const adamw8bit *a = self;
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && i < tiles->count; i++) {
        zds_tiles one = *tiles;
        one.first = zds_tile_at(tiles, i);
        one.count = 1;
        status = elementwise_step(in_blocks(a, one.first->param) ? a->blocks : a->usual, &one, ctx);
    }
    return status;
}

static const zds_optim_ops ops = {.struct_size = sizeof(zds_optim_ops),
                                  .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                  .grad_dtypes = ELEMENTWISE_DTYPES,
                                  .master_dtypes = ELEMENTWISE_DTYPES,
                                  .output_dtypes = ELEMENTWISE_DTYPES,
                                  .create = create,
                                  .destroy = destroy,
                                  .describe = describe,
                                  .step = step};

const zds_plugin adamw8bit_plugin = {OPTIM_PLUGIN("AdamW8bit", options_table, adamw8bit_options,
                                                  ops, "AdamW with block-wise states of 8 bits")};
