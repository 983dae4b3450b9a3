/* Nothing to reduce is an error to it. */
#include "borrowed_comm.h"

static zds_status reduce(void *self, const zds_coll *coll, zds_event **done)
{
    return coll->count ? lender->reduce(self, coll, done) : ZDS_ERR_INVALID;
}

static void spoil(void)
{
    ops.reduce = reduce;
}
