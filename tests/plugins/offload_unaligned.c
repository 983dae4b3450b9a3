/* Says of its alignment what is no power of two. */
#include "heap_tier.h"

static zds_status query(void *self, zds_offload_info *info)
{
    zds_status status = heap_query(self, info);
    info->alignment = 48;
    return status;
}

HEAP_BUT(.query = query);
