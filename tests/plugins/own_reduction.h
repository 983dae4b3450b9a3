/* Gradient descent with momentum that averages gradients itself, right in every way; each plugin
 * that includes it has one fault, in `average` or OWN_MODE. */
#ifndef TESTS_PLUGINS_OWN_REDUCTION_H
#define TESTS_PLUGINS_OWN_REDUCTION_H

#include "momentum.h"

#ifndef OWN_MODE
#define OWN_MODE(self, step) ZDS_REDUCE_LOCAL
#endif

enum { OWN_MOST = 4096 };

/* mean [count] of the ranks' sums of gradients; `self` has the rank. */
static zds_status average(const momentum_self *self, const float *own, float *mean, uint64_t count,
                          const zds_comm_ops *comm, void *comm_self);

typedef zds_status (*collective)(void *comm_self, const zds_coll *coll, zds_event **done);

static inline zds_status own_call(collective function, const float *own, float *mean,
                                  uint64_t count, void *comm_self)
{
    const zds_coll coll = {.struct_size = sizeof coll,
                           .src = own,
                           .dst = mean,
                           .count = count,
                           .src_dtype = ZDS_F32,
                           .dst_dtype = ZDS_F32,
                           .op = ZDS_AVG};
    zds_event *done = NULL;
    zds_status status = function(comm_self, &coll, &done);
    if (status || !done)
        return status;
    status = done->ops->wait(done);
    done->ops->release(done);
    return status;
}

static inline int32_t own_mode(void *self, int64_t step)
{
    (void)self;
    (void)step;
    return OWN_MODE((const momentum_self *)self, step);
}

/* Elements [first, first + count) of a parameter. */
static inline zds_status own_piece(void *self, const zds_param_step *p, uint64_t first,
                                   uint64_t count, const zds_comm_ops *comm, void *comm_self,
                                   double grad_scale)
{
    static float own[OWN_MOST], mean[OWN_MOST];
    for (uint64_t i = 0; i < count; i++)
        own[i] = (float)grad_scale * momentum_load(p->grad, p->grad_dtype, first + i);
    zds_status status = average(self, own, mean, count, comm, comm_self);
    if (status)
        return status;
    void *states[] = {(float *)p->states[0] + first};
    const zds_tile tile = {.master = (float *)p->master + first,
                           .output = p->output ? (uint16_t *)p->output + first : NULL,
                           .grad = mean,
                           .grad_dtype = ZDS_F32,
                           .hyper = p->hyper,
                           .states = states,
                           .count = count};
    for (uint64_t i = 0; i < count; i++)
        momentum_element(&tile, 1, i);
    return ZDS_OK;
}

static inline zds_status own_step(void *self, const zds_param_steps *params,
                                  const zds_comm_ops *comm, void *comm_self,
                                  const zds_step_ctx *ctx)
{
    zds_status status = ZDS_OK;
    for (size_t k = 0; k < params->count; k++) {
        const zds_param_step *p = zds_param_step_at(params, k);
        const uint64_t n = p->param->numel;
        for (uint64_t first = 0; first < n && !status; first += OWN_MOST)
            status = own_piece(self, p, first, n - first < OWN_MOST ? n - first : OWN_MOST, comm,
                               comm_self, ctx->grad_scale);
    }
    return status;
}

static inline zds_status own_create(const zds_host *host, const void *options,
                                    const zds_optim_env *env, void **self)
{
    zds_status status = momentum_create(host, options, env, self);
    if (!status)
        ((momentum_self *)*self)->counter = env->rank;
    return status;
}

MOMENTUM_BUT(.create = own_create, .reduction_mode = own_mode, .step_collective = own_step);

#endif
