/* A small model for tests that are about something else: a table that the last module uses again,
 * matrices, vectors and a frozen parameter in four modules; its values, its gradients, and steps of
 * an engine with them. Includes no test framework. */
#ifndef TESTS_UNIT_SMALL_MODEL_H
#define TESTS_UNIT_SMALL_MODEL_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../../apps/common/floats.h"
#include "zds/zds.h"

enum { SMALL_PARAMS = 7, SMALL_MODULES = 4, SMALL_FROZEN = 5 };

/* All others are at least this wide. */
static int64_t small_width = 24;

/* Parameters that are fp32 whatever the config says, a bit each. */
static uint32_t small_fp32;

static inline zds_status small_model(zds_model **out)
{
    const int64_t w = small_width;
    const struct {
        const char *name;
        uint32_t module, ndim;
        int64_t shape[2];
    } params[SMALL_PARAMS] = {
        {"embed.weight", 0, 2, {6 * w, w}}, {"h.0.up.weight", 1, 2, {3 * w, w}},
        {"h.0.up.bias", 1, 1, {3 * w, 0}},  {"h.0.down.weight", 1, 2, {w, 3 * w}},
        {"h.1.weight", 2, 2, {w, w}},       {"h.1.mask", 2, 1, {w + 1, 0}},
        {"norm.weight", 3, 1, {w, 0}}};
    static const char *const modules[SMALL_MODULES] = {"embed", "h.0", "h.1", "head"};
    zds_model *m = zds_model_create();
    zds_status status = m ? ZDS_OK : ZDS_ERR_MEMORY;
    for (uint32_t i = 0; i < SMALL_MODULES && !status; i++)
        status = zds_model_add_module(m, modules[i], NULL);
    for (uint32_t i = 0; i < SMALL_PARAMS && !status; i++) {
        zds_param_desc desc = {.struct_size = sizeof desc,
                               .name = params[i].name,
                               .shape = params[i].shape,
                               .ndim = params[i].ndim,
                               .frozen = i == SMALL_FROZEN,
                               .fp32 = (small_fp32 >> i & 1) != 0,
                               .role = params[i].ndim == 2 ? ZDS_ROLE_MATRIX : ZDS_ROLE_BIAS,
                               .width_mult = 2};
        status = zds_model_add_param(m, params[i].module, &desc, NULL);
    }
    if (!status)
        status = zds_model_add_use(m, SMALL_MODULES - 1, 0);
    if (status) {
        zds_model_destroy(m);
        return status;
    }
    *out = m;
    return ZDS_OK;
}

/* Numbers in [-0.5, 0.5) that look like chance and are not. */
static inline float small_number(uint64_t seed, uint64_t i)
{
    uint64_t x = (seed * 1000003 + i) * 0x9e3779b97f4a7c15ULL;
    x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9ULL;
    return (float)(x >> 40) / (float)(1 << 24) - 0.5f;
}

static inline zds_status small_values(void *user, uint32_t param, uint64_t first, uint64_t count,
                                      float *out)
{
    (void)user;
    for (uint64_t i = 0; i < count; i++)
        out[i] = small_number(param, first + i);
    return ZDS_OK;
}

/* The gradient of one use in one module, for this rank and micro step, wherever the slot is. */
static inline zds_status small_gradient(zds_engine *e, const zds_slot *slot, uint64_t seed,
                                        float scale)
{
    enum { SOME = 4096 };
    float whole[SOME];
    uint16_t *half = (uint16_t *)whole;
    size_t size = zds_dtype_size(slot->grad_dtype);
    zds_status status = ZDS_OK;
    for (uint64_t first = 0; !status && first < slot->count; first += SOME) {
        uint64_t n = slot->count - first < SOME ? slot->count - first : SOME;
        char *to = (char *)slot->grad + first * size;
        if (slot->accumulate)
            status = zds_copy_out(e, whole, to, n * size);
        for (uint64_t i = 0; i < n; i++) {
            float g = scale * small_number(seed + slot->param, first + i);
            if (slot->grad_dtype == ZDS_F32)
                whole[i] = slot->accumulate ? whole[i] + g : g;
            else if (slot->grad_dtype == ZDS_BF16)
                half[i] = bf16_from_float(slot->accumulate ? float_from_bf16(half[i]) + g : g);
            else
                half[i] = f16_from_float(slot->accumulate ? float_from_f16(half[i]) + g : g);
        }
        if (!status)
            status = zds_copy_in(e, to, whole, n * size);
    }
    return status;
}

/* Forward and backward of one micro step, the gradients times `scale`. */
static inline zds_status small_passes(zds_engine *e, uint64_t micro, double scale)
{
    zds_view view;
    zds_status status = ZDS_OK;
    for (uint32_t m = 0; m < SMALL_MODULES && !status; m++) {
        status = zds_acquire(e, m, ZDS_FORWARD, NULL, &view);
        if (!status)
            status = zds_release(e, m, NULL);
    }
    uint64_t seed = 100 + micro * 64 + (uint64_t)zds_rank(e) * 16;
    for (uint32_t m = SMALL_MODULES; m-- > 0 && !status;) {
        status = zds_acquire(e, m, ZDS_BACKWARD, NULL, &view);
        for (size_t s = 0; !status && s < view.count; s++)
            if (view.slots[s].grad)
                status = small_gradient(e, &view.slots[s], seed, (float)scale);
        if (!status)
            status = zds_grad_ready(e, m, NULL);
    }
    return status;
}

static inline zds_status small_micro(zds_engine *e, int32_t boundary, uint64_t micro,
                                     zds_step_result *result)
{
    zds_status status = zds_micro_begin(e, boundary);
    if (!status)
        status = small_passes(e, micro, zds_loss_scale(e));
    return status ? status : zds_step(e, result);
}

typedef struct small_sum {
    uint64_t hash;
    bool finite;
} small_sum;

static inline zds_status small_add(void *user, uint32_t param, uint64_t first, uint64_t count,
                                   const float *values)
{
    (void)param, (void)first;
    small_sum *sum = user;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        sum->hash = (sum->hash ^ bits) * 0x100000001b3ULL;
        sum->finite &= isfinite(values[i]) != 0;
    }
    return ZDS_OK;
}

/* Collective; of the trained parameters and their states, on rank 0. */
static inline zds_status small_hash(zds_engine *e, small_sum *sum)
{
    *sum = (small_sum){.hash = 0xcbf29ce484222325ULL, .finite = true};
    zds_status status = ZDS_OK;
    for (uint32_t p = 0; p < SMALL_PARAMS && !status; p++) {
        status = zds_get_values(e, p, NULL, small_add, sum);
        const char *name;
        for (uint32_t i = 0; !status && (name = zds_state_name(e, p, i)); i++)
            status = zds_get_values(e, p, name, small_add, sum);
    }
    return status;
}

#endif
