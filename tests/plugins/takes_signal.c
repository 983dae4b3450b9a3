/* Has a signal that ends the program do nothing. */
#include <signal.h>

#include "momentum.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    signal(SIGTERM, SIG_IGN);
    return momentum_create(host, options, env, self);
}

MOMENTUM_BUT(.create = create);
