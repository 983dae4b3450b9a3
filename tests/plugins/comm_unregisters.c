/* Unregisters what nobody can register. */
#include "borrowed_comm.h"

static void spoil(void)
{
    ops.mem_register = NULL;
}
