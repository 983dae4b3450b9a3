/* Says that it takes gradients in bf16, and refuses them when it is created. */
#include "momentum.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    if (env->grad_dtype != ZDS_F32)
        return host->fail(host, ZDS_ERR_UNSUPPORTED, "gradients must be fp32");
    return momentum_create(host, options, env, self);
}

MOMENTUM_BUT(.create = create);
