/* Never comes back from a step. */
#include <stdbool.h>
#include <unistd.h>

#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self, (void)tiles, (void)ctx;
    for (volatile bool on = true; on;)
        pause();
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);
