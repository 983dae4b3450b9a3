/* Describes its running sum as each rank likes it. */
#include "momentum.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    zds_status status = momentum_create(host, options, env, self);
    if (!status)
        ((momentum_self *)*self)->counter = env->rank;
    return status;
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    zds_status status = momentum_describe(self, param, needs);
    needs->states[0].initial = ((const momentum_self *)self)->counter ? 1 : 0;
    return status;
}

MOMENTUM_BUT(.create = create, .describe = describe);
