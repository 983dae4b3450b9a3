/* Gives up without a word to the others. */
#include "borrowed_comm.h"

static void give_up(void *self, const char *reason)
{
    (void)self, (void)reason;
}

static void spoil(void)
{
    ops.abort = give_up;
}
