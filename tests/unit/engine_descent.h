/* An engine of one rank whose optimizer is a plain gradient descent linked into the test, so that
 * the arithmetic can be followed, and a model for it. */
#ifndef TESTS_UNIT_ENGINE_DESCENT_H
#define TESTS_UNIT_ENGINE_DESCENT_H

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "engine_where.h"

/* --- a plugin: w -= lr * grad_scale * g; a state that counts updates --- */

typedef struct descent_options {
    double lr;
} descent_options;

static inline zds_status descent_create(const zds_host *host, const void *options,
                                        const zds_optim_env *env, void **self)
{
    (void)options, (void)env;
    *self = (void *)(uintptr_t)host;
    return ZDS_OK;
}

static inline void descent_destroy(void *self)
{
    (void)self;
}

static inline zds_status descent_describe(void *self, const zds_param *param,
                                          zds_param_needs *needs)
{
    (void)self, (void)param;
    needs->state_count = 1;
    needs->states[0] = (zds_state_spec){
        .name = "count", .kind = ZDS_STATE_ELEMENT, .dtype = ZDS_F32, .initial = 2};
    return ZDS_OK;
}

static inline float from_bf16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline zds_status descent_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t k = 0; k < tiles->count; k++) {
        const zds_tile *t = zds_tile_at(tiles, k);
        float *w = t->master, *count = t->states[0];
        for (uint64_t i = 0; i < t->count; i++) {
            float g = t->grad_dtype == ZDS_F32 ? ((const float *)t->grad)[i]
                                               : from_bf16(((const uint16_t *)t->grad)[i]);
            w[i] -= (float)t->hyper->lr * (float)ctx->grad_scale * g;
            count[i] += 1;
            if (t->output)
                ((uint16_t *)t->output)[i] = to_bf16(w[i]);
        }
    }
    return ZDS_OK;
}

static const zds_option descent_table[] = {{.name = "lr",
                                            .type = ZDS_OPTION_FLOAT,
                                            .offset = offsetof(descent_options, lr),
                                            .default_value = "0.5",
                                            .min = 0,
                                            .max = INFINITY,
                                            .doc = "rate"}};
static const zds_optim_ops descent_ops = {
    .struct_size = sizeof descent_ops,
    .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
    .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16),
    .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
    .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16),
    .create = descent_create,
    .destroy = descent_destroy,
    .describe = descent_describe,
    .step = descent_step};
static const zds_plugin descent = {.struct_size = sizeof descent,
                                   .kind = ZDS_KIND_OPTIM,
                                   .name = "Descent",
                                   .version = "1",
                                   .doc = "plain gradient descent",
                                   .options = descent_table,
                                   .option_stride = sizeof descent_table[0],
                                   .option_count = 1,
                                   .options_size = sizeof(descent_options),
                                   .ops = &descent_ops};
static const zds_plugin *const linked[] = {&descent, NULL};

/* --- a model: two modules with a tied parameter, one frozen, one odd-sized --- */

enum { A = 0, FROZEN = 1, B = 2, C = 3, PARAMS = 4, MODULES = 2 };
enum { SIZE_A = 3000, SIZE_B = 7, LARGEST = 70000 };
static const int64_t sizes[PARAMS] = {SIZE_A, 5, SIZE_B, LARGEST};

static inline zds_model *two_modules(void)
{
    zds_model *m = zds_model_create();
    uint32_t module;
    zds_model_add_module(m, "first", &module);
    zds_param_desc d = {.struct_size = sizeof d, .ndim = 1};
    static const char *const names[] = {"a", "frozen", "b", "c"};
    for (uint32_t p = 0; p < PARAMS; p++) {
        if (p == B)
            zds_model_add_module(m, "second", &module);
        d.name = names[p];
        d.shape = &sizes[p];
        d.frozen = p == FROZEN;
        cr_assert_eq(zds_model_add_param(m, module, &d, NULL), ZDS_OK);
    }
    cr_assert_eq(zds_model_add_use(m, 1, A), ZDS_OK);
    return m;
}

static inline double start_value(uint32_t param, uint64_t i)
{
    return (double)from_bf16(to_bf16((float)param + 0.125f * (float)(i % 8)));
}

static inline zds_status read_start(void *user, uint32_t param, uint64_t first, uint64_t count,
                                    float *out)
{
    (void)user;
    for (uint64_t i = 0; i < count; i++)
        out[i] = (float)start_value(param, first + i);
    return ZDS_OK;
}

typedef struct fixture {
    zds_config *config;
    zds_engine *engine;
} fixture;

static inline fixture open_with(const char *json, int32_t threads)
{
    fixture f = {0};
    zds_error error = ZDS_ERROR_INIT;
    where_search();
    zds_model *model = two_modules();
    cr_assert_eq(zds_config_load(where_config(json), NULL, &f.config, &error), ZDS_OK, "%s",
                 error.text);
    zds_engine_options o = {.struct_size = sizeof o,
                            .plugins = where_plugins(linked),
                            .optimizer = "Descent",
                            .threads = threads};
    cr_assert_eq(zds_engine_create(f.config, model, &o, &f.engine, &error), ZDS_OK, "%s",
                 error.text);
    zds_model_destroy(model);
    cr_assert_eq(zds_set_values(f.engine, read_start, NULL), ZDS_OK);
    return f;
}

static inline fixture open_engine(const char *json)
{
    return open_with(json, 2);
}

static inline void close_engine(fixture f)
{
    zds_engine_destroy(f.engine);
    zds_config_destroy(f.config);
}

static inline float same(uint64_t i, float value)
{
    (void)i;
    return value;
}

/* Wherever the gradient is. */
static inline void put(zds_engine *e, const zds_slot *slot, float (*at)(uint64_t i, float x),
                       float x)
{
    static float floats[LARGEST];
    uint16_t *halves = (uint16_t *)floats;
    const bool half = slot->dtype != ZDS_F32;
    const size_t bytes = slot->count * zds_dtype_size(slot->dtype);
    if (slot->accumulate)
        cr_assert_eq(zds_copy_out(e, floats, slot->grad, bytes), ZDS_OK);
    for (uint64_t i = 0; i < slot->count; i++) {
        const float before = !slot->accumulate ? 0 : half ? from_bf16(halves[i]) : floats[i];
        if (half)
            halves[i] = to_bf16(before + at(i, x));
        else
            floats[i] = before + at(i, x);
    }
    cr_assert_eq(zds_copy_in(e, slot->grad, floats, bytes), ZDS_OK);
}

/* A backward in which every use leaves `value` in every element, but parameter `without` gets none.
 */
static inline void backward(zds_engine *e, float value, int without)
{
    for (uint32_t m = MODULES; m-- > 0;) {
        zds_view v;
        cr_assert_eq(zds_acquire(e, m, ZDS_BACKWARD, NULL, &v), ZDS_OK, "%s", zds_engine_error(e));
        for (uint32_t s = 0; s < v.count; s++)
            if ((int)v.slots[s].param == without)
                cr_assert_eq(zds_grad_none(e, m, s), ZDS_OK);
            else if (v.slots[s].grad)
                put(e, &v.slots[s], same, value);
        cr_assert_eq(zds_grad_ready(e, m, NULL), ZDS_OK, "%s", zds_engine_error(e));
    }
}

typedef struct expect {
    double worst;
    double (*at)(uint32_t param, uint64_t i, double x);
    double x;
} expect;

static inline zds_status compare(void *user, uint32_t param, uint64_t first, uint64_t count,
                                 const float *values)
{
    expect *e = user;
    for (uint64_t i = 0; i < count; i++) {
        double off = fabs((double)values[i] - e->at(param, first + i, e->x));
        if (!(off <= e->worst))
            e->worst = off;
    }
    return ZDS_OK;
}

static inline double check(zds_engine *e, uint32_t param, const char *state,
                           double (*at)(uint32_t, uint64_t, double), double x)
{
    expect want = {.at = at, .x = x};
    cr_assert_eq(zds_get_values(e, param, state, compare, &want), ZDS_OK, "%s",
                 zds_engine_error(e));
    return want.worst;
}

static inline double moved(uint32_t param, uint64_t i, double by)
{
    return start_value(param, i) - by;
}

static inline double constant(uint32_t param, uint64_t i, double x)
{
    (void)param, (void)i;
    return x;
}

#endif
