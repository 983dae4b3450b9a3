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
    /* weight_decay * p is added to the gradient; else decay * p is taken from the weight. */
    bool l2;
} adam_constants;

SIMD_DECLARE(void, adam_run, const elementwise *tile);         /* exp_avg, exp_avg_sq */
SIMD_DECLARE(void, adam_run_amsgrad, const elementwise *tile); /* and max_exp_avg_sq */

/* Of a group's hyperparameters, with bias correction. */
static inline adam_constants adam_constants_of(const zds_hyper *hyper, double eps, int64_t step,
                                               bool decoupled)
{
    double beta1 = hyper->beta1, beta2 = hyper->beta2;
    double bias1 = 1 - pow(beta1, (double)step), bias2 = 1 - pow(beta2, (double)step);
    return (adam_constants){.beta1 = (float)beta1,
                            .one_minus_beta1 = (float)(1 - beta1),
                            .beta2 = (float)beta2,
                            .one_minus_beta2 = (float)(1 - beta2),
                            .eps = (float)eps,
                            .inverse_sqrt_bias2 = (float)(1 / sqrt(bias2)),
                            .rate = (float)(hyper->lr / bias1),
                            .decay = (float)(hyper->lr * hyper->weight_decay),
                            .weight_decay = (float)hyper->weight_decay,
                            .l2 = !decoupled};
}

/* An instance of the kernels above; `plan` has options, maximize and constants. */
zds_status adam_create_kernels(const zds_host *host, const zds_optim_env *env,
                               elementwise_optim *plan, bool with_maximum, void **self);

extern const zds_plugin adamw8bit_plugin, muadam_plugin, muadamw_plugin;

#endif
