/* Allocates in step. */
#include <stdlib.h>

#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    float *volatile copy = malloc(64);
    zds_status status = momentum_step(self, tiles, ctx);
    free(copy);
    return status;
}

MOMENTUM_BUT(.step = step);
