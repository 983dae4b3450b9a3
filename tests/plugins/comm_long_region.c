/* Writes fields of zds_region that the host does not have. */
#include "borrowed_comm.h"

static zds_status mem_alloc(void *self, uint64_t bytes, int32_t kind, zds_region *region)
{
    memset((char *)region + region->struct_size, 0, sizeof(uint64_t));
    return lender->mem_alloc(self, bytes, kind, region);
}

static void spoil(void)
{
    ops.mem_alloc = mem_alloc;
}
