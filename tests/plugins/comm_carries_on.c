/* Reports a reduction as done although a peer has died. */
#include "borrowed_comm.h"

static zds_status reduce_scatter(void *self, const zds_coll *coll, zds_event **done)
{
    zds_status status = finish(lender->reduce_scatter(self, coll, done), done);
    return status == ZDS_ERR_PEER ? ZDS_OK : status;
}

static void spoil(void)
{
    ops.reduce_scatter = reduce_scatter;
}
