/* Has the process take other words and signs for its own. */
#include <locale.h>

#include "momentum.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    setlocale(LC_ALL, "C.UTF-8");
    return momentum_create(host, options, env, self);
}

MOMENTUM_BUT(.create = create);
