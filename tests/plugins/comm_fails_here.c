/* The third reduction of rank 1 fails, on that rank alone, before a peer hears of it. */
#include "borrowed_comm.h"

static const zds_host *hosts;

static zds_status init(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self)
{
    hosts = host;
    return borrowed_init(host, options, env, self);
}

static zds_status reduce_scatter(void *self, const zds_coll *coll, zds_event **done)
{
    static int calls;
    if (own_rank == 1 && ++calls == 3)
        return hosts->fail(hosts, ZDS_ERR_MEMORY, "no memory for an operation");
    return lender->reduce_scatter(self, coll, done);
}

static void spoil(void)
{
    ops.init = init;
    ops.reduce_scatter = reduce_scatter;
}
