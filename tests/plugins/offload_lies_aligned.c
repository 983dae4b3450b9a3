/* Says that its blocks begin at pages. */
#include "device_tier.h"

static zds_status query(void *self, zds_offload_info *info)
{
    zds_status status = device_query(self, info);
    info->alignment = 1 << 20;
    return status;
}

DEVICE_BUT(.query = query);
