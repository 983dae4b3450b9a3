/* Adagrad: options and constants. The formula is in adagrad_kernel.c. */
#include "optim/adagrad/adagrad.h"

typedef struct adagrad_options {
    double lr, lr_decay, weight_decay, initial_accumulator_value, eps;
    bool maximize, amsgrad, fp32_optimizer_states;
} adagrad_options;

static const zds_option options_table[] = {
    OPTION_LR(adagrad_options, "0.01"),
    OPTION_NUMBER(adagrad_options, lr_decay, "0", 0,
                  "the rate is divided by 1 + (step - 1) * lr_decay"),
    OPTION_WEIGHT_DECAY(adagrad_options, "L2 penalty, added to the gradient"),
    OPTION_NUMBER(adagrad_options, initial_accumulator_value, "0", 0,
                  "where the sum of squares starts"),
    OPTION_EPS(adagrad_options, "1e-10", "added to the denominator, outside the root"),
    OPTION_MAXIMIZE(adagrad_options),
    OPTION_NO_EFFECT(adagrad_options, amsgrad, "false",
                     "DeepSpeed's CPU Adagrad takes it too, and computes the same"),
    OPTION_NO_EFFECT(adagrad_options, fp32_optimizer_states, "true",
                     "bf16.bf16_optimizer_states decides in which type the sum is kept"),
};

static void constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step, void *out)
{
    const adagrad_options *o = optim->options;
    double slower = 1 + (double)(step - 1) * o->lr_decay;
    *(adagrad_constants *)out =
        (adagrad_constants){.rate = (float)(tile->hyper->lr / slower),
                            .eps = (float)o->eps,
                            .weight_decay = (float)tile->hyper->weight_decay};
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    static const char *const states[] = {"sum"};
    static const elementwise_fn kernels[] = SIMD_TABLE(adagrad_run);
    _Static_assert(sizeof(adagrad_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    const adagrad_options *o = options;
    elementwise_optim plan = {.options = o,
                              .states = states,
                              .state_count = 1,
                              .initial = o->initial_accumulator_value,
                              .maximize = o->maximize,
                              .constants = constants};
    return elementwise_create(host, env, &plan, kernels, self);
}

static const zds_optim_ops ops = {ELEMENTWISE_OPS(create), .describe = elementwise_describe};

static const zds_plugin plugin = {OPTIM_PLUGIN("Adagrad", options_table, adagrad_options, ops,
                                               "the rate falls with the squares seen so far")};

ZDS_PLUGINS(&plugin);
