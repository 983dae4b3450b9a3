/* Aborts in the middle of a step. */
#include <stdlib.h>

#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self, (void)tiles, (void)ctx;
    abort();
}

MOMENTUM_BUT(.step = step);
