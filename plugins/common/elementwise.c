/* What element-wise optimizers share besides their loop. */
#include "common/elementwise.h"

static bool fits(zds_dtype dtype)
{
    return dtype >= 0 && dtype < ZDS_DTYPE_COUNT && (ELEMENTWISE_DTYPES & ZDS_DTYPE_BIT(dtype));
}

zds_status elementwise_create(const zds_host *host, const zds_optim_env *env, int *level)
{
    if (env->space != ZDS_SPACE_HOST)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "this optimizer computes in host memory, not in space %d", env->space);
    if (!fits(env->master_dtype) || !fits(env->grad_dtype) || !fits(env->output_dtype) ||
        !fits(env->state_dtype))
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "weights, gradients and states must be fp32, bf16 or fp16, not dtypes "
                          "%d, %d, %d",
                          env->master_dtype, env->grad_dtype, env->state_dtype);
    if (env->stochastic_rounding)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "this optimizer rounds 16-bit states to nearest; remove "
                          "\"stochastic_rounding\"");
    return simd_level(host, level);
}

void elementwise_describe(zds_param_needs *needs, zds_dtype dtype, int count,
                          const char *const *names)
{
    for (int i = 0; i < count; i++)
        needs->states[i] = (zds_state_spec){
            .name = names[i], .kind = ZDS_STATE_ELEMENT, .dtype = dtype, .initial = 0.0};
    needs->state_count = (uint32_t)count;
}

elementwise elementwise_tile(const zds_tile *tile, const zds_step_ctx *ctx)
{
    return (elementwise){
        .count = tile->count,
        .master = tile->master,
        .grad = tile->grad,
        .output = tile->output,
        .states = tile->states,
        .master_dtype = tile->master_dtype,
        .grad_dtype = tile->grad_dtype,
        .output_dtype = tile->output_dtype,
        .grad_scale = (float)ctx->grad_scale,
    };
}
