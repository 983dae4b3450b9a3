/* Uses the source of an exchange as its scratch. */
#include "borrowed_comm.h"

static zds_status all_to_all(void *self, const zds_coll *coll, zds_event **done)
{
    zds_status status = finish(lender->all_to_all(self, coll, done), done);
    if (!status && own_size > 1 && coll->count)
        memset((void *)(uintptr_t)coll->src, 0, zds_dtype_size(coll->src_dtype));
    return status;
}

static void spoil(void)
{
    ops.all_to_all = all_to_all;
}
