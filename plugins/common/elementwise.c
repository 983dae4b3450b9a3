/* What element-wise optimizers share besides their loop. */
#include "common/elementwise.h"

static bool fits(zds_dtype dtype)
{
    return dtype >= 0 && dtype < ZDS_DTYPE_COUNT && (ELEMENTWISE_DTYPES & ZDS_DTYPE_BIT(dtype));
}

zds_status elementwise_check(const zds_host *host, const zds_optim_env *env)
{
    if (env->space != ZDS_SPACE_HOST)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "this optimizer computes in host memory, not in space %d", env->space);
    if (!fits(env->master_dtype) || !fits(env->grad_dtype) || !fits(env->output_dtype) ||
        !fits(env->state_dtype))
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "weights, gradients, output and states must be fp32, bf16 or fp16, not "
                          "dtypes %d, %d, %d and %d",
                          env->master_dtype, env->grad_dtype, env->output_dtype, env->state_dtype);
    if (env->stochastic_rounding && (env->master_dtype == ZDS_F16 || env->state_dtype == ZDS_F16))
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "stochastic rounding is for bfloat16 weights and states, not for fp16");
    return ZDS_OK;
}

zds_status elementwise_init(elementwise_optim *o, const zds_host *host, const zds_optim_env *env,
                            const elementwise_fn *kernels)
{
    zds_status status = elementwise_check(host, env);
    if (!status)
        status = simd_level(host, &o->level);
    if (status)
        return status;
    o->host = host;
    o->run = kernels[o->level];
    o->run_norms = o->norm_kernels ? o->norm_kernels[o->level] : NULL;
    o->state_dtype = env->state_dtype;
    o->stochastic = env->stochastic_rounding != 0;
    return ZDS_OK;
}

zds_status elementwise_create(const zds_host *host, const zds_optim_env *env,
                              const elementwise_optim *plan, const elementwise_fn *kernels,
                              void **self)
{
    elementwise_optim made = *plan;
    zds_status status = elementwise_init(&made, host, env, kernels);
    if (status)
        return status;
    elementwise_optim *o = host->alloc(host, sizeof *o, 0);
    if (!o)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    *o = made;
    *self = o;
    return ZDS_OK;
}

void elementwise_destroy(void *self)
{
    elementwise_optim *o = self;
    o->host->free(o->host, o);
}

zds_status elementwise_describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    const elementwise_optim *o = self;
    (void)param;
    for (int i = 0; i < o->state_count; i++)
        zds_add_state(needs, &(zds_state_spec){.name = o->states[i],
                                               .kind = ZDS_STATE_ELEMENT,
                                               .dtype = o->state_dtype,
                                               .initial = i == 0 ? o->initial : 0});
    needs->tensor_norms = o->norms;
    return ZDS_OK;
}

/* SplitMix64's finalizer (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators"). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint32_t elementwise_key(const zds_step_ctx *ctx, const zds_param *param)
{
    uint64_t x = mix(ctx->seed + 0x9e3779b97f4a7c15u);
    x = mix(x ^ (uint64_t)ctx->step);
    return (uint32_t)(mix(x ^ param->index) >> 32);
}

static void run_tiles(const elementwise_optim *o, elementwise_fn run, const zds_tiles *tiles,
                      const zds_step_ctx *ctx)
{
    float scale = (float)ctx->grad_scale;
    for (size_t i = 0; i < tiles->count; i++) {
        const zds_tile *tile = zds_tile_at(tiles, i);
        _Alignas(double) unsigned char constants[ELEMENTWISE_MAX_CONSTANTS];
        o->constants(o, tile, ctx->step, constants);
        run(&(elementwise){.count = (size_t)tile->count,
                           .master = tile->master,
                           .grad = tile->grad,
                           .output = tile->output,
                           .states = tile->states,
                           .master_dtype = tile->master_dtype,
                           .grad_dtype = tile->grad_dtype,
                           .output_dtype = tile->output_dtype,
                           .state_dtype = o->state_dtype,
                           .grad_scale = o->maximize ? -scale : scale,
                           .stochastic = o->stochastic,
                           .key = o->stochastic ? elementwise_key(ctx, tile->param) : 0,
                           .first = (uint32_t)tile->first,
                           .constants = constants,
                           .sums = tile->sums,
                           .chunk_sums = tile->chunk_sums,
                           .chunk_stride = tile->chunk_stride});
    }
}

zds_status elementwise_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const elementwise_optim *o = self;
    run_tiles(o, o->run, tiles, ctx);
    return ZDS_OK;
}

zds_status elementwise_norms(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const elementwise_optim *o = self;
    run_tiles(o, o->run_norms, tiles, ctx);
    return ZDS_OK;
}

zds_status elementwise_no_max_grad_norm(const zds_host *host, double value)
{
    if (isnan(value))
        return ZDS_OK;
    return host->fail(host, ZDS_ERR_CONFIG,
                      "max_grad_norm is not an option of the optimizer any more; write "
                      "\"gradient_clipping\" at the top level of ds_config instead");
}

zds_status elementwise_group_momentum(const elementwise_optim *o, const zds_param_needs *needs,
                                      double own)
{
    if (own != 0 || needs->hyper->momentum == 0)
        return ZDS_OK;
    return o->host->fail(o->host, ZDS_ERR_CONFIG,
                         "its group has the momentum %g, but the optimizer has none and keeps no "
                         "state for one; write a momentum into the optimizer's params, and 0 into "
                         "the groups that are to have none",
                         needs->hyper->momentum);
}
