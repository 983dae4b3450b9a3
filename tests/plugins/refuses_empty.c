/* Refuses a parameter without elements, which it may. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    const zds_host *host = ((const momentum_self *)self)->host;
    if (param->numel == 0)
        return host->fail(host, ZDS_ERR_UNSUPPORTED, "it has no elements");
    return momentum_describe(self, param, needs);
}

MOMENTUM_BUT(.describe = describe);
