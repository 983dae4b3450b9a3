/* Sets a variable that libraries read. */
#include <stdlib.h>

#include "momentum.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    setenv("OMP_NUM_THREADS", "1", 1);
    return momentum_create(host, options, env, self);
}

MOMENTUM_BUT(.create = create);
