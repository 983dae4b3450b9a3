/* Cuts floats to bfloat16 instead of rounding them. */
#include "device_tier.h"

static zds_status convert(void *self, const zds_pass *p, zds_event **done)
{
    zds_status status = device_convert(self, p, done);
    const uint32_t *from = zds_end_address(&p->from);
    uint16_t *to = zds_end_address(&p->to);
    for (uint64_t i = 0;
         !status && p->from_dtype == ZDS_F32 && p->to_dtype == ZDS_BF16 && i < p->count; i++)
        to[i] = (uint16_t)(from[i] >> 16);
    return status;
}

DEVICE_BUT(.convert = convert);
