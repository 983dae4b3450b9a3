/* Does not wait for what is in the way of a message to all. */
#include "borrowed_comm.h"

static zds_status all_to_all(void *self, const zds_coll *coll, zds_event **done)
{
    zds_coll other = *coll;
    other.wait_count = 0;
    return lender->all_to_all(self, &other, done);
}

static void spoil(void)
{
    ops.all_to_all = all_to_all;
}
