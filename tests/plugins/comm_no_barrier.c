/* Its barrier holds nobody up. */
#include "borrowed_comm.h"

static zds_status barrier(void *self, const zds_coll *coll, zds_event **done)
{
    (void)self, (void)coll;
    *done = NULL;
    return ZDS_OK;
}

static void spoil(void)
{
    ops.barrier = barrier;
}
