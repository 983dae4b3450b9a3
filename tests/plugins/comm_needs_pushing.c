/* Says that its operations complete by themselves, and they do not. */
#include "borrowed_comm.h"

static void spoil(void)
{
    ops.flags |= ZDS_COMM_AUTO_PROGRESS;
}
