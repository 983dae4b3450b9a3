/* The same training with the loop left to zds: the program supplies forward and backward.
 * usage: train_batch DS_CONFIG STEPS, alone or under zds-run */
#include <stdio.h>
#include <stdlib.h>

#include "mlp.h"

typedef struct run {
    mlp m;
    int64_t step;
} run;

static zds_status forward(void *user, zds_engine *engine, int64_t micro, double *loss)
{
    (void)engine;
    run *r = (run *)user;
    return mlp_forward(&r->m, r->step, micro, loss);
}

static zds_status backward(void *user, zds_engine *engine, int64_t micro, double loss_scale)
{
    (void)engine;
    (void)micro;
    run *r = (run *)user;
    return mlp_backward(&r->m, loss_scale);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s DS_CONFIG STEPS\n", argv[0]);
        return 2;
    }
    run r = {.step = 0};
    if (!mlp_open(&r.m, argv[1]))
        return 1;
    const zds_model_ops ops = {.struct_size = sizeof ops, .forward = forward, .backward = backward};
    zds_status status = ZDS_OK;
    for (int64_t steps = atoll(argv[2]); status == ZDS_OK && r.step < steps; r.step++) {
        zds_step_result result = {.struct_size = sizeof result};
        status = zds_train_batch(r.m.engine, &ops, &r, &result);
        if (status == ZDS_OK && zds_rank(r.m.engine) == 0 &&
            (r.step == 0 || (r.step + 1) % 50 == 0))
            printf("step %lld  loss %.6f  norm %.6f  rate %g\n", (long long)r.step + 1, result.loss,
                   result.grad_norm, result.lr);
    }
    if (status != ZDS_OK)
        fprintf(stderr, "rank %d: %s\n", (int)zds_rank(r.m.engine), zds_engine_error(r.m.engine));
    mlp_close(&r.m);
    return status == ZDS_OK ? 0 : 1;
}
