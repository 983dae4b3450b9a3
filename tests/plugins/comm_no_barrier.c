/* Its barrier holds nobody up. */
#include "borrowed_comm.h"

static zds_status barrier(void *self, const zds_coll *coll, zds_event **done)
{
    zds_status status = ZDS_OK;
    (void)self;
    *done = NULL;
    for (size_t i = 0; i < coll->wait_count && !status; i++)
        if (coll->waits[i])
            status = coll->waits[i]->ops->wait(coll->waits[i]);
    return status;
}

static void spoil(void)
{
    ops.barrier = barrier;
}
