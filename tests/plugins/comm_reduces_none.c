/* Says that it reduces nothing. */
#include "borrowed_comm.h"

static void spoil(void)
{
    ops.reduce_dtypes = 0;
}
