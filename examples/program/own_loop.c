/* A program that keeps its own training loop and calls the engine from it: for codes that have one.
 * usage: own_loop DS_CONFIG STEPS, alone or under zds-run */
#include <stdio.h>
#include <stdlib.h>

#include "mlp.h"

static zds_status train(mlp *m, int64_t steps)
{
    for (int64_t step = 0; step < steps; step++) {
        double loss = 0;
        zds_step_result result = {.struct_size = sizeof result};
        int64_t micro_steps = zds_accumulation_steps(m->engine);
        for (int64_t micro = 0; micro < micro_steps; micro++) {
            double part;
            zds_status status = zds_micro_begin(m->engine, ZDS_BOUNDARY_AUTO);
            if (status == ZDS_OK)
                status = mlp_forward(m, step, micro, &part);
            if (status == ZDS_OK)
                status = mlp_backward(m, zds_loss_scale(m->engine));
            if (status == ZDS_OK)
                status = zds_step(m->engine, &result); /* updates after the last micro step */
            if (status != ZDS_OK)
                return status;
            loss += part / (double)micro_steps;
        }
        zds_status status = zds_sum_over_ranks(m->engine, &loss, 1);
        if (status != ZDS_OK)
            return status;
        loss /= zds_world_size(m->engine);
        if (zds_rank(m->engine) == 0 && (step == 0 || (step + 1) % 50 == 0))
            printf("step %lld  loss %.6f  norm %.6f  rate %g\n", (long long)step + 1, loss,
                   result.grad_norm, result.lr);
    }
    return ZDS_OK;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s DS_CONFIG STEPS\n", argv[0]);
        return 2;
    }
    mlp m;
    if (!mlp_open(&m, argv[1]))
        return 1;
    zds_status status = train(&m, atoll(argv[2]));
    if (status != ZDS_OK)
        fprintf(stderr, "rank %d: %s\n", (int)zds_rank(m.engine), zds_engine_error(m.engine));
    mlp_close(&m);
    return status == ZDS_OK ? 0 : 1;
}
