/* Leaves the process in another folder, where relative paths mean other files. */
#include <unistd.h>

#include "momentum.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    if (chdir("/") != 0)
        return host->fail(host, ZDS_ERR_INVALID, "no folder");
    return momentum_create(host, options, env, self);
}

MOMENTUM_BUT(.create = create);
