/* Of several ranks' vectors it does not reduce the last element. */
#include "borrowed_comm.h"

static zds_status reduce_scatter(void *self, const zds_coll *coll, zds_event **done)
{
    const size_t size = zds_dtype_size(coll->dst_dtype);
    char kept[8], *last = (char *)coll->dst + (coll->count - 1) * size;
    if (own_size == 1 || !coll->count)
        return lender->reduce_scatter(self, coll, done);
    memcpy(kept, last, size);
    zds_status status = finish(lender->reduce_scatter(self, coll, done), done);
    memcpy(last, kept, size);
    return status;
}

static void spoil(void)
{
    ops.reduce_scatter = reduce_scatter;
}
