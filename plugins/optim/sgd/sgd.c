/* SGD: options and life of an instance. The formula is in sgd_kernel.h. */
#include "optim/sgd/sgd.h"

#include <math.h>
#include <stddef.h>

typedef struct sgd_options {
    double lr, momentum, dampening, weight_decay;
    bool nesterov, maximize;
} sgd_options;

typedef struct sgd_instance {
    const zds_host *host;
    const sgd_options *options;
    zds_dtype state_dtype;
    bool has_buffer;
    bool counts; /* a parameter's first step is unlike the others, and must be told */
    elementwise_fn run;
} sgd_instance;

#define AT(field) offsetof(sgd_options, field)

static const zds_option options_table[] = {
    {.name = "lr",
     .type = ZDS_OPTION_FLOAT,
     .offset = AT(lr),
     .default_value = "0.001",
     .min = 0,
     .max = INFINITY,
     .auto_from = "learning_rate",
     .doc = "learning rate"},
    {.name = "momentum",
     .type = ZDS_OPTION_FLOAT,
     .offset = AT(momentum),
     .default_value = "0",
     .min = 0,
     .max = INFINITY,
     .doc = "decay of the sum of gradients that is followed; 0: the gradient itself"},
    {.name = "dampening",
     .type = ZDS_OPTION_FLOAT,
     .offset = AT(dampening),
     .default_value = "0",
     .min = -INFINITY,
     .max = INFINITY,
     .doc = "a gradient enters the sum times 1 - dampening; the first enters whole"},
    {.name = "weight_decay",
     .type = ZDS_OPTION_FLOAT,
     .offset = AT(weight_decay),
     .default_value = "0",
     .min = 0,
     .max = INFINITY,
     .auto_from = "weight_decay",
     .doc = "L2 penalty, added to the gradient"},
    {.name = "nesterov",
     .type = ZDS_OPTION_BOOL,
     .offset = AT(nesterov),
     .default_value = "false",
     .doc = "look one step ahead; needs momentum, and no dampening"},
    {.name = "maximize",
     .type = ZDS_OPTION_BOOL,
     .offset = AT(maximize),
     .default_value = "false",
     .doc = "climb instead of descend"},
};

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const elementwise_fn plain[] = SIMD_TABLE(sgd_run);
    static const elementwise_fn momentum[] = SIMD_TABLE(sgd_run_momentum);
    const sgd_options *o = options;
    if (o->nesterov && (o->momentum <= 0 || o->dampening != 0))
        return host->fail(host, ZDS_ERR_CONFIG,
                          "nesterov needs a momentum above 0 and a dampening of 0, not %g and %g",
                          o->momentum, o->dampening);
    int level = 0;
    zds_status status = elementwise_create(host, env, &level);
    if (status)
        return status;
    sgd_instance *sgd = host->alloc(host, sizeof *sgd, 0);
    if (!sgd)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    bool has_buffer = o->momentum != 0;
    *sgd = (sgd_instance){.host = host,
                          .options = o,
                          .state_dtype = env->state_dtype,
                          .has_buffer = has_buffer,
                          .counts = has_buffer && o->dampening != 0,
                          .run = (has_buffer ? momentum : plain)[level]};
    *self = sgd;
    return ZDS_OK;
}

static void destroy(void *self)
{
    sgd_instance *sgd = self;
    sgd->host->free(sgd->host, sgd);
}

/* With a dampening the first gradient's weight differs, and a parameter may get its first gradient
 * in any step: its steps are counted in a state of its own. */
static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    static const char *const names[] = {"momentum_buffer"};
    const sgd_instance *sgd = self;
    (void)param;
    elementwise_describe(needs, sgd->state_dtype, sgd->has_buffer, names);
    if (sgd->counts)
        needs->states[needs->state_count++] = (zds_state_spec){
            .name = "step", .kind = ZDS_STATE_TENSOR, .dtype = ZDS_I64, .bytes = sizeof(int64_t)};
    return ZDS_OK;
}

static zds_status begin_step(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    const sgd_instance *sgd = self;
    (void)ctx;
    for (size_t i = 0; sgd->counts && i < params->count; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        if (p->has_grad)
            ++*(int64_t *)p->states[1];
    }
    return ZDS_OK;
}

static sgd_constants constants_of(const sgd_instance *sgd, const zds_tile *tile)
{
    const zds_hyper *hyper = tile->hyper;
    bool first = sgd->counts && *(const int64_t *)tile->states[1] == 1;
    return (sgd_constants){.lr = (float)hyper->lr,
                           .weight_decay = (float)hyper->weight_decay,
                           .momentum = first ? 0 : (float)hyper->momentum,
                           .weight = first ? 1 : (float)(1 - sgd->options->dampening),
                           .nesterov = (float)hyper->momentum,
                           .is_nesterov = sgd->options->nesterov};
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const sgd_instance *sgd = self;
    for (size_t i = 0; i < tiles->count; i++) {
        const zds_tile *tile = zds_tile_at(tiles, i);
        sgd_constants constants = constants_of(sgd, tile);
        elementwise e = elementwise_tile(tile, ctx);
        if (sgd->options->maximize)
            e.grad_scale = -e.grad_scale;
        e.state_dtype = sgd->state_dtype;
        e.constants = &constants;
        sgd->run(&e);
    }
    return ZDS_OK;
}

static const zds_optim_ops ops = {.struct_size = sizeof ops,
                                  .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                  .grad_dtypes = ELEMENTWISE_DTYPES,
                                  .master_dtypes = ELEMENTWISE_DTYPES,
                                  .output_dtypes = ELEMENTWISE_DTYPES,
                                  .create = create,
                                  .destroy = destroy,
                                  .describe = describe,
                                  .begin_step = begin_step,
                                  .step = step};

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_OPTIM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "SGD",
                                  .version = "1.0",
                                  .doc = "stochastic gradient descent, with momentum or without",
                                  .options = options_table,
                                  .option_stride = sizeof options_table[0],
                                  .option_count = sizeof options_table / sizeof options_table[0],
                                  .options_size = sizeof(sgd_options),
                                  .ops = &ops};

ZDS_PLUGINS(&plugin);
