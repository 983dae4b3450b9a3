/* What element-wise optimizers share besides their loop: the choice of kernel, types that fit, and
 * the walk over tiles. */
#ifndef ZDS_ELEMENTWISE_H
#define ZDS_ELEMENTWISE_H

#include "common/simd_level.h"

enum { ELEMENTWISE_MAX_STATES = 4 };

/* Element types of weights, gradients, output and states that the kernels take. */
#define ELEMENTWISE_DTYPES                                                                         \
    (ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_F16) | ZDS_DTYPE_BIT(ZDS_BF16))

/* One tile, as a kernel sees it. */
typedef struct elementwise {
    size_t count;
    void *master;
    const void *grad;
    void *output; /* NULL: none */
    void *const *states;
    zds_dtype master_dtype, grad_dtype, output_dtype, state_dtype;
    float grad_scale;
    const void *constants; /* the optimizer's own, for this tile's hyperparameters */
} elementwise;

typedef void (*elementwise_fn)(const elementwise *tile);

/* Refuses an environment whose types the kernels do not take. `level`: see simd_level. */
zds_status elementwise_create(const zds_host *host, const zds_optim_env *env, int *level);

/* Says that a parameter has these ELEMENT states, all of type `dtype`, starting at 0. */
void elementwise_describe(zds_param_needs *needs, zds_dtype dtype, int count,
                          const char *const *names);

/* Fills in all but state_dtype and constants. */
elementwise elementwise_tile(const zds_tile *tile, const zds_step_ctx *ctx);

#endif
