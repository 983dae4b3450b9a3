/* Its sum is wrong on rank 1. */
#include "borrowed_comm.h"

static zds_status all_reduce(void *self, const zds_coll *coll, zds_event **done)
{
    zds_status status = finish(lender->all_reduce(self, coll, done), done);
    if (!status && own_rank == 1 && coll->src_dtype == ZDS_F32 && coll->count > 100)
        ((float *)coll->dst)[100] += 1;
    return status;
}

static void spoil(void)
{
    ops.all_reduce = all_reduce;
}
