/* ZeRO's beginning and end. */
#include "zero/zero.h"

#include <stdlib.h>

#include "zero/parts.h"

zds_status zero_no_memory(zds_error *error, const char *what, uint64_t bytes)
{
    if (!bytes)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for %s", what);
    return error_set(error, ZDS_ERR_MEMORY,
                     "no memory for %s (%llu bytes on this rank); a higher zero_optimization.stage "
                     "or more ranks need less",
                     what, (unsigned long long)bytes);
}

zds_status zero_alloc(tier *t, slab *s, const char *purpose, uint64_t bytes, zds_error *error)
{
    zds_error why = ZDS_ERROR_INIT;
    zds_status status = tier_alloc(t, purpose, bytes, s, &why);
    if (status)
        error_set(error, status, "%s; a higher zero_optimization.stage or more ranks need less",
                  why.text);
    zds_error_clear(&why);
    return status;
}

zds_status zero_alloc_known(zero *z, tier *t, peer_slab *s, const char *purpose, uint64_t bytes,
                            zds_error *error)
{
    if (zero_any_memory(z) || is_alone(z))
        return zero_alloc(t, &s->slab, purpose, bytes, error);
    return peers_alloc(z->with.peers, s, purpose, bytes, ZDS_MEM_SYMMETRIC, error);
}

/* What parameters that the optimizer needs whole cost it. At stage 0 every rank has all of them
 * whole anyway, however their gradients are reduced. */
static void fill_costs(const zero *z, double *costs)
{
    for (uint32_t i = 0; z->wish.stage && i < z->with.model->param_count; i++) {
        const zds_param_needs *needs = &z->with.params[i].needs;
        if (needs->whole_tensor)
            costs[i] = needs->cost > 0 ? needs->cost : (double)z->with.model->params[i].numel;
    }
}

static zds_status lay_out(zero *z, zds_error *error)
{
    size_t params = z->with.model->param_count + (size_t)1;
    double *whole = calloc(params, sizeof *whole);
    uint32_t *granularity = calloc(params, sizeof *granularity);
    size_t narrowest = zds_dtype_size(z->wish.param_dtype);
    if (zds_dtype_size(z->wish.accum_dtype) < narrowest)
        narrowest = zds_dtype_size(z->wish.accum_dtype);
    uint64_t align = zero_params_rest(z) ? z->with.params_tier->info.alignment : 0;
    zds_status status = ZDS_ERR_MEMORY;
    align = align > 64 ? align : 64;
    if (whole && granularity) {
        fill_costs(z, whole);
        for (uint32_t i = 0; i < z->with.model->param_count; i++)
            granularity[i] = z->with.params[i].needs.granularity;
        const layout_wish wish = {.world_size = (uint32_t)z->with.peers->world_size,
                                  .align = align / narrowest,
                                  .wide = z->wish.param_dtype != ZDS_F32,
                                  .by_module = z->wish.stage == 3 || z->wish.overlap_step,
                                  .in_parts = z->wish.stage == 3,
                                  .kept = z->params.kept,
                                  .granularity = granularity,
                                  .bucket = z->wish.bucket,
                                  .whole = z->wish.stage ? whole : NULL};
        status = grads_lay_out(z, &wish, error);
    } else {
        zero_no_memory(error, "the layout of parameters", 0);
    }
    free(whole);
    free(granularity);
    return status;
}

zds_status zero_create(const zero_wishes *wishes, const zero_means *means, zero **out,
                       zds_error *error)
{
    zero *z = calloc(1, sizeof *z);
    if (!z)
        return zero_no_memory(error, "the layout of parameters", 0);
    z->wish = *wishes;
    z->with = *means;
    zds_status status = params_choose(z, error);
    if (!status)
        status = lay_out(z, error);
    if (!status && !zero_is_here(z))
        status = tier_stream_create(z->with.tier, &z->queue, error);
    if (!status && !zero_is_here(z))
        status = tier_stream_create(z->with.tier, &z->wire, error);
    if (!status)
        status = params_open(z, error);
    if (!status)
        status = residency_create(z, error);
    if (!status)
        status = publish_create(z, error);
    if (!status)
        status = quantised_create(z, error);
    if (!status)
        status = secondary_create(z, error);
    if (!status)
        status = grads_create(z, error);
    if (!status)
        status = stream_create(z, error);
    if (status) {
        zero_destroy(z);
        return status;
    }
    *out = z;
    return ZDS_OK;
}

void zero_destroy(zero *z)
{
    if (!z)
        return;
    if (z->wire) /* what is on them still uses what goes now */
        tier_sync(z->with.tier, z->wire, NULL);
    if (z->queue)
        tier_sync(z->with.tier, z->queue, NULL);
    if (z->overlap.queue)
        tier_sync(z->with.tier, z->overlap.queue, NULL);
    for (size_t i = 0; i < z->held_count; i++)
        z->held[i]->ops->release(z->held[i]);
    if (z->lay) {
        grads_destroy(z);
        secondary_destroy(z);
        quantised_destroy(z);
        publish_destroy(z);
        residency_destroy(z);
        params_close(z);
        stream_destroy(z);
    }
    if (z->queue)
        tier_stream_destroy(z->with.tier, z->queue);
    if (z->wire)
        tier_stream_destroy(z->with.tier, z->wire);
    layout_destroy(z->lay);
    free(z->params.kept);
    free(z);
}
