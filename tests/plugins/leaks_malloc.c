/* Forgets memory of the C library's. */
#include <stdlib.h>

#include "momentum.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    char *volatile forgotten = malloc(100); /* volatile: not to be optimised away */
    (void)forgotten;
    return momentum_create(host, options, env, self);
}

MOMENTUM_BUT(.create = create);
