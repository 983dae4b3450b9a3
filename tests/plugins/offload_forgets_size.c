/* Writes fields of zds_offload_info that the host does not have. */
#include "heap_tier.h"

static zds_status query(void *self, zds_offload_info *info)
{
    zds_status status = heap_query(self, info);
    memset((char *)info + info->struct_size, 0, sizeof(uint64_t));
    return status;
}

HEAP_BUT(.query = query);
