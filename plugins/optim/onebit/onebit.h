/* What the three 1-bit optimizers share: options, the life of an instance, lists of what travels.
 */
#ifndef OPTIM_ONEBIT_H
#define OPTIM_ONEBIT_H

#include "optim/onebit/average.h"

/* Options of all three; each plugin's own struct begins with these. */
typedef struct onebit_options {
    double lr, betas[2], eps, weight_decay, max_grad_norm;
    bool bias_correction, eps_inside_sqrt, amsgrad, cuda_aware;
    const char *comm_backend_name;
} onebit_options;

#define ONEBIT_OPTIONS                                                                             \
    OPTION_LR(onebit_options, "0.001"),                                                            \
        OPTION_BETAS(onebit_options, "[0.9, 0.999]",                                               \
                     "decay of the running means of the gradient and of its square"),              \
        OPTION_EPS(onebit_options, "1e-8", "added to the denominator, outside the root"),          \
        OPTION_WEIGHT_DECAY(onebit_options, "decoupled weight decay"),                             \
        OPTION_MAX_GRAD_NORM(onebit_options),                                                      \
        OPTION_FLAG(onebit_options, amsgrad, "false", "refused if true, as in DeepSpeed"),         \
        OPTION_NO_EFFECT(onebit_options, bias_correction, "true",                                  \
                         "the reference reads it and never corrects the bias"),                    \
        OPTION_NO_EFFECT(onebit_options, eps_inside_sqrt, "false",                                 \
                         "the reference reads it and always adds eps outside the root"),           \
        OPTION_NO_EFFECT(onebit_options, cuda_aware, "false",                                      \
                         "the engine's own communication plugin carries the bits"),                \
    {                                                                                              \
        .name = "comm_backend_name", .type = ZDS_OPTION_STRING,                                    \
        .flags = ZDS_OPTION_NO_EFFECT | ZDS_OPTION_NULLABLE,                                       \
        .offset = offsetof(onebit_options, comm_backend_name), .default_value = "\"nccl\"",        \
        .doc = "the engine's own communication plugin carries the bits"                            \
    }

/* A whole number of at least 1. */
#define ONEBIT_COUNT(options, field, preset, text)                                                 \
    {                                                                                              \
        .name = #field, .type = ZDS_OPTION_INT, .offset = offsetof(options, field),                \
        .default_value = preset, .min = 1, .max = INFINITY, .doc = text                            \
    }

/* Members of a zds_optim_ops; more may follow. */
#define ONEBIT_OPS(create_fn, describe_fn, destroy_fn)                                             \
    .struct_size = sizeof(zds_optim_ops), .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),                 \
    .grad_dtypes = ELEMENTWISE_DTYPES, .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),                    \
    .output_dtypes = ELEMENTWISE_DTYPES, .create = create_fn, .destroy = destroy_fn,               \
    .describe = describe_fn, .step = elementwise_step

typedef struct onebit {
    elementwise_optim base; /* first: tiles are elementwise */
    average average;
    average_vector *vectors; /* [params] */
    size_t vector_count;
    elementwise_fn given, frozen, move; /* see kernels.h */
    int32_t world;
    bool sharded;
    uint64_t elements; /* of all trainable parameters */
} onebit;

/* An instance of `size` bytes that begins with a onebit. `plan`, `tiles`: as in elementwise_create.
 */
zds_status onebit_create(const zds_host *host, const onebit_options *options,
                         const zds_optim_env *env, size_t size, const elementwise_optim *plan,
                         const elementwise_fn *tiles, onebit **self);
/* The create of those whose steps by tiles are Adam's. */
zds_status onebit_create_adam(const zds_host *host, const void *options, const zds_optim_env *env,
                              void **self);
void onebit_destroy(void *self);

/* exp_avg, this rank's own, and exp_avg_sq. */
void onebit_describe(const onebit *o, zds_param_needs *needs);
/* Errors of a vector of `count` elements, as states of `kind` (TENSOR or GLOBAL). */
void onebit_describe_errors(const onebit *o, zds_param_needs *needs, int32_t kind, uint64_t count);

/* vectors[0..n), zeroed. */
zds_status onebit_vectors(onebit *o, size_t n);
/* The `prepare` of those that send each parameter as a vector. */
zds_status onebit_prepare(void *self, const zds_param_steps *params);

void onebit_fill_constants(const onebit_options *o, const zds_hyper *h, onebit_constants *c);

/* Runs a kernel over elements [first, first + count) of a parameter, as far as this rank updates
 * them. `grad`: fp32, of element `first`; or NULL for a kernel that reads none. exp_avg is
 * states[0], whole; exp_avg_sq is states[1]. */
void onebit_update(const onebit *o, elementwise_fn kernel, const zds_param_step *param,
                   const onebit_constants *constants, uint64_t first, uint64_t count,
                   const float *grad);

/* The stretch of [first, first + count) that this rank updates: count 0 if none. */
typedef struct stretch {
    uint64_t first, count;
} stretch;
stretch onebit_owned(const zds_param_step *param, uint64_t first, uint64_t count);

static inline const void *onebit_grad_at(const zds_param_step *param, uint64_t element)
{
    return (const char *)param->grad + element * zds_dtype_size(param->grad_dtype);
}

extern const zds_plugin onebit_adam_plugin, onebit_lamb_plugin, zero_one_adam_plugin;

#endif
