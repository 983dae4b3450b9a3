/* Leaves bits on one rank that the others do not have, all within what rounding allows. */
#include "borrowed_comm.h"

static zds_status all_reduce(void *self, const zds_coll *coll, zds_event **done)
{
    zds_status status = finish(lender->all_reduce(self, coll, done), done);
    if (!status && own_rank == 1 && coll->src_dtype == ZDS_F32 && coll->op == ZDS_AVG &&
        coll->count > 1000)
        ((uint32_t *)coll->dst)[1000] ^= 1;
    return status;
}

static void spoil(void)
{
    ops.all_reduce = all_reduce;
}
