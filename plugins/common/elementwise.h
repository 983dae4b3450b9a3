/* What element-wise optimizers share besides their loop: the life of an instance, the walk over
 * tiles, rows of option tables. An optimizer adds its options, the constants of a step, and a
 * formula (see elementwise_kernel.h). */
#ifndef ZDS_ELEMENTWISE_H
#define ZDS_ELEMENTWISE_H

#include <math.h>
#include <stddef.h>

#include "common/simd_level.h"

enum { ELEMENTWISE_MAX_STATES = 4, ELEMENTWISE_MAX_CONSTANTS = 64 };

/* === kernels === */

/* One tile, as a kernel sees it. */
typedef struct elementwise {
    size_t count;
    void *master;
    const void *grad;
    void *output; /* NULL: none */
    void *const *states;
    zds_dtype master_dtype, grad_dtype, output_dtype, state_dtype;
    float grad_scale;
    bool stochastic;       /* round bfloat16 weights and states at random.. */
    uint32_t key;          /* ..by (seed, step, parameter).. */
    uint32_t first;        /* ..and element: the tile's first in the parameter, modulo 2^32 */
    const void *constants; /* the optimizer's own, for this tile's hyperparameters */
    const double *sums;    /* [norms] over the whole tensor; in a step only */
    double *chunk_sums;    /* [norms][chunk_stride] as in zds_tile; in norms only */
    size_t chunk_stride;
} elementwise;

typedef void (*elementwise_fn)(const elementwise *tile);

/* === an instance === */

typedef struct elementwise_optim elementwise_optim;
struct elementwise_optim {
    const void *options;
    const char *const *states; /* names of the ELEMENT states */
    int state_count;
    double initial; /* of the first state; the others start at 0 */
    bool maximize;
    const elementwise_fn *norm_kernels; /* a SIMD_TABLE of what makes `norms` sums; or NULL */
    uint32_t norms;
    /* Fills the kernel's constants, at most ELEMENTWISE_MAX_CONSTANTS bytes. */
    void (*constants)(const elementwise_optim *o, const zds_tile *tile, int64_t step, void *out);
    /* Set by elementwise_create and elementwise_init. */
    const zds_host *host;
    int level; /* into SIMD_TABLEs */
    elementwise_fn run, run_norms;
    zds_dtype state_dtype;
    bool stochastic;
};

/* Makes an instance like `plan`. `kernels`: a SIMD_TABLE. ZDS_ERR_UNSUPPORTED: types or a space
 * that the kernels do not take; ZDS_ERR_INVALID, ZDS_ERR_MEMORY. */
zds_status elementwise_create(const zds_host *host, const zds_optim_env *env,
                              const elementwise_optim *plan, const elementwise_fn *kernels,
                              void **self);
/* The same for an instance whose first member is an elementwise_optim, filled as a plan. */
zds_status elementwise_init(elementwise_optim *o, const zds_host *host, const zds_optim_env *env,
                            const elementwise_fn *kernels);
/* What create checks of the types and the space. */
zds_status elementwise_check(const zds_host *host, const zds_optim_env *env);
void elementwise_destroy(void *self);
zds_status elementwise_describe(void *self, const zds_param *param, zds_param_needs *needs);
zds_status elementwise_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx);
/* Of stochastic rounding: see `key` above. */
uint32_t elementwise_key(const zds_step_ctx *ctx, const zds_param *param);
/* For the vtable of an optimizer with norm_kernels. */
zds_status elementwise_norms(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx);

/* ZDS_ERR_CONFIG if `value` is a number: DeepSpeed refuses max_grad_norm among an optimizer's
 * options. See OPTION_MAX_GRAD_NORM. */
zds_status elementwise_no_max_grad_norm(const zds_host *host, double value);

/* In describe of an optimizer that keeps a momentum's state only where its own option, `own`, is
 * not 0: ZDS_ERR_CONFIG if a group has a momentum without that. */
zds_status elementwise_group_momentum(const elementwise_optim *o, const zds_param_needs *needs,
                                      double own);

/* Element types of weights, gradients, output and states that the kernels take. */
#define ELEMENTWISE_DTYPES                                                                         \
    (ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_F16) | ZDS_DTYPE_BIT(ZDS_BF16))

/* Members of a zds_optim_ops; more may follow. */
#define ELEMENTWISE_OPS(create_fn)                                                                 \
    .struct_size = sizeof(zds_optim_ops), .flags = ZDS_OPTIM_F32_OUTPUT,                           \
    .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST), .grad_dtypes = ELEMENTWISE_DTYPES,                    \
    .master_dtypes = ELEMENTWISE_DTYPES, .output_dtypes = ELEMENTWISE_DTYPES, .create = create_fn, \
    .destroy = elementwise_destroy, .step = elementwise_step

/* Members of a zds_plugin for an optimizer whose options are `table`, read into `type`. */
#define OPTIM_PLUGIN(plugin_name, table, type, vtable, text)                                       \
    .struct_size = sizeof(zds_plugin), .kind = ZDS_KIND_OPTIM, .abi_minor = ZDS_ABI_MINOR,         \
    .name = plugin_name, .version = "1.0", .doc = text, .options = table,                          \
    .option_stride = sizeof(zds_option), .option_count = sizeof(table) / sizeof(zds_option),       \
    .options_size = sizeof(type), .ops = &vtable

/* === rows of option tables; `options` is the type of the struct === */

/* A number of at least `least`. */
#define OPTION_NUMBER(options, field, preset, least, text)                                         \
    {                                                                                              \
        .name = #field, .type = ZDS_OPTION_FLOAT, .offset = offsetof(options, field),              \
        .default_value = preset, .min = least, .max = INFINITY, .doc = text                        \
    }
#define OPTION_FLAG(options, field, preset, text)                                                  \
    {                                                                                              \
        .name = #field, .type = ZDS_OPTION_BOOL, .offset = offsetof(options, field),               \
        .default_value = preset, .doc = text                                                       \
    }
/* A flag that changes nothing; the text says why. */
#define OPTION_NO_EFFECT(options, field, preset, text)                                             \
    {                                                                                              \
        .name = #field, .type = ZDS_OPTION_BOOL, .flags = ZDS_OPTION_NO_EFFECT,                    \
        .offset = offsetof(options, field), .default_value = preset, .doc = text                   \
    }
#define OPTION_LR(options, preset)                                                                 \
    {                                                                                              \
        .name = "lr", .type = ZDS_OPTION_FLOAT, .offset = offsetof(options, lr),                   \
        .default_value = preset, .min = 0, .max = INFINITY, .auto_from = "learning_rate",          \
        .doc = "learning rate"                                                                     \
    }
#define OPTION_BETAS(options, preset, text)                                                        \
    {                                                                                              \
        .name = "betas", .type = ZDS_OPTION_FLOATS, .flags = ZDS_OPTION_BELOW_MAX,                 \
        .offset = offsetof(options, betas), .count = 2, .default_value = preset, .min = 0,         \
        .max = 1, .auto_from = "adam_beta1, adam_beta2", .doc = text                               \
    }
#define OPTION_EPS(options, preset, text)                                                          \
    {                                                                                              \
        .name = "eps", .type = ZDS_OPTION_FLOAT, .offset = offsetof(options, eps),                 \
        .default_value = preset, .min = 0, .max = INFINITY, .auto_from = "adam_epsilon",           \
        .doc = text                                                                                \
    }
#define OPTION_WEIGHT_DECAY(options, text) OPTION_WEIGHT_DECAY_OF(options, "0", text)
#define OPTION_WEIGHT_DECAY_OF(options, preset, text)                                              \
    {                                                                                              \
        .name = "weight_decay", .type = ZDS_OPTION_FLOAT,                                          \
        .offset = offsetof(options, weight_decay), .default_value = preset, .min = 0,              \
        .max = INFINITY, .auto_from = "weight_decay", .doc = text                                  \
    }
#define OPTION_MAX_GRAD_NORM(options)                                                              \
    {                                                                                              \
        .name = "max_grad_norm", .type = ZDS_OPTION_FLOAT, .flags = ZDS_OPTION_NULLABLE,           \
        .offset = offsetof(options, max_grad_norm), .default_value = "null", .min = -INFINITY,     \
        .max = INFINITY,                                                                           \
        .doc = "removed: any number is refused; use gradient_clipping at the top level"            \
    }
#define OPTION_MAXIMIZE(options) OPTION_FLAG(options, maximize, "false", "climb instead of descend")

#endif
