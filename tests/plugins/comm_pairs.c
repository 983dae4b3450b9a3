/* For two ranks, as its facts say; nobody asks whether it suits others, or opens it for them. */
#include "borrowed_comm.h"

static zds_status init(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self)
{
    return env->world_size == 2 ? borrowed_init(host, options, env, self)
                                : host->fail(host, ZDS_ERR_INVALID, "not a pair");
}

static int32_t suits(const zds_comm_env *env)
{
    (void)env;
    return 1;
}

static void spoil(void)
{
    ops.least_ranks = ops.most_ranks = 2;
    ops.suits = suits;
    ops.init = init;
}
