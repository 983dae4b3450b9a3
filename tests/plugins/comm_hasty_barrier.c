/* Does not wait for what is in the way of a barrier. */
#include "borrowed_comm.h"

static zds_status barrier(void *self, const zds_coll *coll, zds_event **done)
{
    zds_coll other = *coll;
    other.wait_count = 0;
    return lender->barrier(self, &other, done);
}

static void spoil(void)
{
    ops.barrier = barrier;
}
