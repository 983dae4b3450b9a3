/* What the three 1-bit optimizers share, see onebit.h. */
#include "optim/onebit/onebit.h"

zds_status onebit_create(const zds_host *host, const onebit_options *options,
                         const zds_optim_env *env, size_t size, const elementwise_optim *plan,
                         const elementwise_fn *tiles, onebit **self)
{
    static const elementwise_fn given[] = SIMD_TABLE(onebit_adam_given);
    static const elementwise_fn frozen[] = SIMD_TABLE(onebit_adam_frozen);
    static const elementwise_fn move[] = SIMD_TABLE(onebit_move);
    static const onebit_kernels *(*const kernels[])(void) = SIMD_TABLE(onebit_kernels_of);
    _Static_assert(sizeof(onebit_constants) <= ELEMENTWISE_MAX_CONSTANTS, "constants fit");
    zds_status status = elementwise_no_max_grad_norm(host, options->max_grad_norm);
    if (status)
        return status;
    if (options->amsgrad)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "the 1-bit optimizers have no amsgrad variant, since the mean square is "
                          "frozen; remove amsgrad, or use Adam");
    if (env->master_dtype != ZDS_F32 || env->state_dtype != ZDS_F32)
        return host->fail(host, ZDS_ERR_UNSUPPORTED,
                          "weights and states must be fp32 here, not dtypes %d and %d: what 16 "
                          "bits round away is lost to the error feedback; remove "
                          "bf16_master_weights_and_grads and bf16_optimizer_states",
                          env->master_dtype, env->state_dtype);
    onebit *o = host->alloc(host, size, 0);
    if (!o)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    o->base = *plan;
    o->base.options = options;
    status = elementwise_init(&o->base, host, env, tiles);
    if (status) {
        host->free(host, o);
        return status;
    }
    int level = o->base.level;
    o->given = given[level];
    o->frozen = frozen[level];
    o->move = move[level];
    o->average = (average){
        .host = host, .kernels = kernels[level](), .world = env->world_size, .rank = env->rank};
    o->world = env->world_size;
    o->sharded = env->sharded != 0;
    o->elements = env->trainable_elements;
    *self = o;
    return ZDS_OK;
}

static void adam_constants(const elementwise_optim *optim, const zds_tile *tile, int64_t step,
                           void *out)
{
    (void)step;
    onebit_fill_constants(optim->options, tile->hyper, out);
}

zds_status onebit_create_adam(const zds_host *host, const void *options, const zds_optim_env *env,
                              void **self)
{
    static const elementwise_fn tiles[] = SIMD_TABLE(onebit_adam);
    elementwise_optim plan = {.constants = adam_constants};
    onebit *o = NULL;
    zds_status status = onebit_create(host, options, env, sizeof *o, &plan, tiles, &o);
    if (!status)
        *self = o;
    return status;
}

void onebit_destroy(void *self)
{
    onebit *o = self;
    average_release(&o->average);
    o->base.host->free(o->base.host, o->vectors);
    o->base.host->free(o->base.host, o);
}

void onebit_describe(const onebit *o, zds_param_needs *needs)
{
    zds_add_state(needs, &(zds_state_spec){.name = "exp_avg",
                                           .kind = ZDS_STATE_ELEMENT,
                                           .dtype = ZDS_F32,
                                           .scope = ZDS_SCOPE_RANK_LOCAL});
    zds_add_state(needs, &(zds_state_spec){
                             .name = "exp_avg_sq", .kind = ZDS_STATE_ELEMENT, .dtype = ZDS_F32});
    needs->tensor_norms = o->base.norms;
}

void onebit_describe_errors(const onebit *o, zds_param_needs *needs, int32_t kind, uint64_t count)
{
    if (o->world == 1)
        return;
    uint64_t bytes = average_padded(count, o->world) * sizeof(float);
    zds_state_spec spec = {.name = "worker_error",
                           .kind = kind,
                           .dtype = ZDS_F32,
                           .scope = ZDS_SCOPE_RANK_LOCAL,
                           .bytes = bytes};
    zds_add_state(needs, &spec);
    spec.name = "server_error";
    spec.bytes = bytes / (uint64_t)o->world;
    zds_add_state(needs, &spec);
}

zds_status onebit_vectors(onebit *o, size_t n)
{
    const zds_host *host = o->base.host;
    if (n > o->vector_count) {
        host->free(host, o->vectors);
        o->vectors = host->alloc(host, n * sizeof *o->vectors, 0);
        o->vector_count = o->vectors ? n : 0;
        if (!o->vectors)
            return host->fail(host, ZDS_ERR_MEMORY, "no memory for a list of %zu parameters", n);
    }
    for (size_t i = 0; i < n; i++)
        o->vectors[i] = (average_vector){0};
    return ZDS_OK;
}

zds_status onebit_prepare(void *self, const zds_param_steps *params)
{
    onebit *o = self;
    zds_status status = onebit_vectors(o, params->count);
    if (status)
        return status;
    for (size_t i = 0; i < params->count; i++)
        o->vectors[i].count = zds_param_step_at(params, i)->param->numel;
    return average_prepare(&o->average,
                           &(average_work){.count = params->count, .vectors = o->vectors});
}

void onebit_fill_constants(const onebit_options *o, const zds_hyper *h, onebit_constants *c)
{
    *c = (onebit_constants){.beta1 = (float)h->beta1,
                            .one_minus_beta1 = (float)(1 - h->beta1),
                            .beta2 = (float)h->beta2,
                            .one_minus_beta2 = (float)(1 - h->beta2),
                            .eps = (float)o->eps,
                            .weight_decay = (float)h->weight_decay,
                            .rate = (float)h->lr};
}

stretch onebit_owned(const zds_param_step *param, uint64_t first, uint64_t count)
{
    uint64_t end = first + count, part_end = param->part_first + param->part_count;
    uint64_t begin = first > param->part_first ? first : param->part_first;
    end = end < part_end ? end : part_end;
    return (stretch){.first = begin, .count = end > begin ? end - begin : 0};
}

void onebit_update(const onebit *o, elementwise_fn kernel, const zds_param_step *param,
                   const onebit_constants *constants, uint64_t first, uint64_t count,
                   const float *grad)
{
    stretch own = onebit_owned(param, first, count);
    if (!own.count)
        return;
    uint64_t in_part = own.first - param->part_first;
    void *states[2] = {(float *)param->states[0] + own.first, (float *)param->states[1] + in_part};
    kernel(&(elementwise){.count = (size_t)own.count,
                          .master = (float *)param->master + in_part,
                          .grad = grad ? grad + (own.first - first) : NULL,
                          .output = param->output
                                        ? (char *)param->output +
                                              in_part * zds_dtype_size(param->output_dtype)
                                        : NULL,
                          .states = states,
                          .master_dtype = ZDS_F32,
                          .grad_dtype = ZDS_F32,
                          .output_dtype = param->output_dtype,
                          .state_dtype = o->base.state_dtype,
                          .grad_scale = 1,
                          .constants = constants});
}

ZDS_PLUGINS(&onebit_adam_plugin, &onebit_lamb_plugin, &zero_one_adam_plugin);
