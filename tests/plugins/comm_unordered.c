/* Orders the ranks of a split by rank, whatever their keys. */
#include "borrowed_comm.h"

static zds_status split(void *self, int32_t color, int32_t key, void **child)
{
    (void)key;
    return lender->split(self, color, 0, child);
}

static void spoil(void)
{
    ops.split = split;
}
