/* Refuses without a word. */
#include "momentum.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    (void)host, (void)options, (void)env, (void)self;
    return ZDS_ERR_INVALID;
}

MOMENTUM_BUT(.create = create);
