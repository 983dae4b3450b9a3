/* Cuts off what bfloat16 cannot hold instead of rounding it. */
#include "borrowed_comm.h"

static zds_status all_reduce(void *self, const zds_coll *coll, zds_event **done)
{
    enum { MOST = 1 << 13 };
    static float wide[MOST];
    if (coll->src_dtype != ZDS_BF16 || coll->op != ZDS_SUM || coll->count > MOST)
        return lender->all_reduce(self, coll, done);
    for (uint64_t i = 0; i < coll->count; i++) {
        const uint32_t bits = (uint32_t)((const uint16_t *)coll->src)[i] << 16;
        memcpy(&wide[i], &bits, sizeof bits);
    }
    zds_coll sum = *coll;
    sum.src = sum.dst = wide;
    sum.src_dtype = sum.dst_dtype = ZDS_F32;
    zds_status status = finish(lender->all_reduce(self, &sum, done), done);
    for (uint64_t i = 0; i < coll->count; i++) {
        uint32_t bits;
        memcpy(&bits, &wide[i], sizeof bits);
        ((uint16_t *)coll->dst)[i] = (uint16_t)(bits >> 16);
    }
    return status;
}

static void spoil(void)
{
    ops.all_reduce = all_reduce;
}
