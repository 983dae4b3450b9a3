/* Between Adam's plugin and its kernels. */
#ifndef OPTIM_ADAMW_H
#define OPTIM_ADAMW_H

#include "common/elementwise.h"

/* What an update needs, computed in double once per step and group. */
typedef struct adam_constants {
    float beta1, one_minus_beta1, beta2, one_minus_beta2;
    float eps;
    float inverse_sqrt_bias2; /* 1 / sqrt(1 - beta2^step) */
    float rate;               /* lr / (1 - beta1^step) */
    float decay;              /* lr * weight_decay */
    float weight_decay;
    bool
        l2; /* weight_decay * p is added to the gradient; else decay * p is taken from the weight */
} adam_constants;

SIMD_DECLARE(void, adam_run, const elementwise *tile);         /* exp_avg, exp_avg_sq */
SIMD_DECLARE(void, adam_run_amsgrad, const elementwise *tile); /* and max_exp_avg_sq */

/* Of a group's hyperparameters, with bias correction. */
adam_constants adam_constants_of(const zds_hyper *hyper, double eps, int64_t step, bool decoupled);
/* An instance of the kernels above; `plan` has options, maximize and constants. */
zds_status adam_create_kernels(const zds_host *host, const zds_optim_env *env,
                               elementwise_optim *plan, bool with_maximum, void **self);

extern const zds_plugin adamw8bit_plugin, muadam_plugin, muadamw_plugin;

#endif
