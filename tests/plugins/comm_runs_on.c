/* Its gathering writes one element more than there are. */
#include "borrowed_comm.h"

static zds_status all_gather(void *self, const zds_coll *coll, zds_event **done)
{
    zds_status status = finish(lender->all_gather(self, coll, done), done);
    const size_t bytes = zds_dtype_size(coll->src_dtype) * coll->count * (size_t)own_size;
    if (!status && own_size > 1 && coll->count == 1023)
        memset((char *)coll->dst + bytes, 0, zds_dtype_size(coll->src_dtype));
    return status;
}

static void spoil(void)
{
    ops.all_gather = all_gather;
}
