/* Waits for no count. */
#include "borrowed_comm.h"

static zds_status counter_wait(void *self, const zds_region *region, uint64_t index, uint64_t value,
                               const char *what, zds_event **done)
{
    (void)self, (void)region, (void)index, (void)value, (void)what;
    *done = NULL;
    return ZDS_OK;
}

static void spoil(void)
{
    ops.counter_wait = counter_wait;
}
