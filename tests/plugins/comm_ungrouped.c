/* Ends groups that nobody can begin. */
#include "borrowed_comm.h"

static zds_status group_end(void *self)
{
    (void)self;
    return ZDS_OK;
}

static void spoil(void)
{
    ops.group_begin = NULL;
    ops.group_end = group_end;
}
