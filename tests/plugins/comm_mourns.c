/* Waits for ever for a peer that has died. */
#include <unistd.h>

#include "borrowed_comm.h"

static zds_status all_reduce(void *self, const zds_coll *coll, zds_event **done)
{
    zds_status status = finish(lender->all_reduce(self, coll, done), done);
    while (status == ZDS_ERR_PEER)
        sleep(1);
    return status;
}

static void spoil(void)
{
    ops.all_reduce = all_reduce;
}
