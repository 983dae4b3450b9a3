/* The maximal update parametrisation: Yang et al. 2022, "Tensor Programs V: Tuning Large Neural
 * Networks via Zero-Shot Hyperparameter Transfer", table 8, as the package mup defines it. Rates
 * are those of the base model; a parameter's own follow from how much wider than there it is. mup
 * tells parameters apart by how many of their dimensions have grown: two (matrix-like), one, or
 * none. */
#ifndef PLUGINS_COMMON_MUP_H
#define PLUGINS_COMMON_MUP_H

#include "zds/plugin.h"

static inline bool mup_matrix_like(const zds_param *p)
{
    return p->ndim >= 2 && p->width_mult != 1 && p->fan_out_mult != 1;
}

/* For Adam and its like: the rate is divided by this, an L2 penalty is multiplied by it. */
static inline double mup_adam_divisor(const zds_param *p)
{
    return mup_matrix_like(p) ? p->width_mult : 1;
}

/* For SGD. */
static inline double mup_sgd_divisor(const zds_param *p)
{
    return mup_matrix_like(p) ? p->width_mult / p->fan_out_mult : 1 / p->width_mult;
}

/* Says so where the program told no widths: mup itself refuses that. */
static inline void mup_warn(const zds_host *host, const zds_param_steps *params,
                            const zds_step_ctx *ctx)
{
    if (ctx->step != 1)
        return;
    for (size_t i = 0; i < params->count; i++)
        if (zds_param_step_at(params, i)->param->width_mult != 1)
            return;
    host->log(host, ZDS_LOG_WARNING,
              "no parameter has a width multiplier, so that all rates are the base model's; the "
              "program gives them in zds_param_desc.width_mult");
}

#endif
