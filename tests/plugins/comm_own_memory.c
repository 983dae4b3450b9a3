/* Takes only memory of its own or registered, and does not say that it copies. */
#include "borrowed_comm.h"

static zds_status broadcast(void *self, const zds_coll *coll, zds_event **done)
{
    zds_region region = {.struct_size = sizeof region};
    const size_t bytes = coll->count * zds_dtype_size(coll->src_dtype);
    const zds_device host = {.space = ZDS_SPACE_HOST};
    *done = NULL;
    zds_status status = lender->mem_register(self, coll->dst, bytes ? bytes : 1, host, &region);
    if (status)
        return status;
    status = finish(lender->broadcast(self, coll, done), done);
    lender->mem_unregister(self, &region);
    return status;
}

static void spoil(void)
{
    ops.flags &= ~(uint64_t)ZDS_COMM_COPIES;
    ops.broadcast = broadcast;
}
