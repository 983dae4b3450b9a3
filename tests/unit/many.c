/* A model of very many small tensors, each a module: described, laid out, trained a step and read
 * back. What it costs must grow with their number, not with its square: then this takes minutes. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "zds/zds.h"

enum { TENSORS = 100000, FROZEN = TENSORS / 2, GROUPS = 1000, ELEMENTS = 3 };

/* === w -= lr g, with a count of steps that all parameters share === */

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    (void)host, (void)options, (void)env;
    *self = NULL;
    return ZDS_OK;
}

static void destroy(void *self)
{
    (void)self;
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    needs->state_count = 1;
    needs->states[0] =
        (zds_state_spec){.name = "count", .kind = ZDS_STATE_GLOBAL, .bytes = sizeof(int64_t)};
    return ZDS_OK;
}

static zds_status begin_step(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    (void)self;
    int64_t *count = zds_param_step_at(params, 0)->states[0];
    *count += ctx->step;
    cr_assert_eq(zds_param_step_at(params, params->count - 1)->states[0], count);
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t k = 0; k < tiles->count; k++) {
        const zds_tile *t = zds_tile_at(tiles, k);
        for (uint64_t i = 0; *(const int64_t *)t->states[0] == ctx->step && i < t->count; i++)
            ((float *)t->master)[i] -= (float)t->hyper->lr * ((const float *)t->grad)[i];
    }
    return ZDS_OK;
}

typedef struct plain_options {
    double lr;
} plain_options;

static const zds_option options[] = {{.name = "lr",
                                      .type = ZDS_OPTION_FLOAT,
                                      .offset = offsetof(plain_options, lr),
                                      .default_value = "1",
                                      .max = INFINITY,
                                      .doc = "rate"}};
static const zds_optim_ops ops = {.struct_size = sizeof ops,
                                  .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                  .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .create = create,
                                  .destroy = destroy,
                                  .describe = describe,
                                  .begin_step = begin_step,
                                  .step = step};
static const zds_plugin plain = {.struct_size = sizeof plain,
                                 .kind = ZDS_KIND_OPTIM,
                                 .name = "Plain",
                                 .version = "1",
                                 .doc = "w -= lr g",
                                 .options = options,
                                 .option_stride = sizeof *options,
                                 .option_count = 1,
                                 .options_size = sizeof(plain_options),
                                 .ops = &ops};
static const zds_plugin *const linked[] = {&plain, NULL};

/* === the model === */

/* The first half is frozen; the last module uses all of that half again. */
static zds_model *make_model(void)
{
    static const int64_t shape = ELEMENTS;
    zds_model *m = zds_model_create();
    for (uint32_t i = 0; i < TENSORS; i++) {
        char name[32];
        snprintf(name, sizeof name, "layers.%u.weight", (i * 7919u) % TENSORS);
        zds_param_desc d = {.struct_size = sizeof d,
                            .name = name,
                            .shape = &shape,
                            .ndim = 1,
                            .group = i % GROUPS,
                            .frozen = i < FROZEN};
        cr_assert_eq(zds_model_add_module(m, name, NULL), ZDS_OK);
        cr_assert_eq(zds_model_add_param(m, i, &d, NULL), ZDS_OK, "%s", zds_model_error(m));
    }
    for (uint32_t i = 0; i < FROZEN; i++)
        cr_assert_eq(zds_model_add_use(m, TENSORS - 1, i), ZDS_OK, "%s", zds_model_error(m));
    return m;
}

static zds_status ones(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param, (void)first;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 1;
    return ZDS_OK;
}

static zds_status keep(void *user, uint32_t param, uint64_t first, uint64_t count,
                       const float *values)
{
    (void)param;
    for (uint64_t i = 0; i < count; i++)
        ((float *)user)[first + i] = values[i];
    return ZDS_OK;
}

static double rate_of(uint32_t group)
{
    return 1.0 / (1 << group % 10);
}

static zds_engine *open_engine(const zds_config *config)
{
    zds_group_desc groups[GROUPS];
    for (uint32_t g = 0; g < GROUPS; g++)
        groups[g] = (zds_group_desc){sizeof *groups,
                                     {sizeof(zds_hyper), rate_of(g), NAN, NAN, NAN, NAN, NAN}};
    zds_engine_options o = {.struct_size = sizeof o,
                            .threads = 2,
                            .optimizer = "Plain",
                            .groups = groups,
                            .group_count = GROUPS,
                            .group_stride = sizeof *groups,
                            .plugins = linked};
    zds_model *m = make_model();
    zds_engine *e = NULL;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(zds_engine_create(config, m, &o, &e, &error), ZDS_OK, "%s", error.text);
    zds_model_destroy(m);
    return e;
}

Test(many, a_step_changes_each_by_its_groups_rate)
{
    zds_config *config = NULL;
    zds_error error = ZDS_ERROR_INIT;
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins", 1);
    cr_assert_eq(zds_config_load("{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0,"
                                 " \"zero_optimization\": {\"stage\": 2}}",
                                 NULL, &config, &error),
                 ZDS_OK, "%s", error.text);
    zds_engine *e = open_engine(config);
    cr_assert_eq(zds_set_values(e, ones, NULL), ZDS_OK);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_YES), ZDS_OK);
    for (uint32_t m = TENSORS; m-- > FROZEN;) {
        zds_view view;
        cr_assert_eq(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view), ZDS_OK);
        for (uint32_t i = 0; i < ELEMENTS; i++)
            ((float *)view.slots[0].grad)[i] = (float)(m % 5);
        cr_assert_eq(zds_grad_ready(e, m, NULL), ZDS_OK);
    }
    cr_assert_eq(zds_step(e, NULL), ZDS_OK, "%s", zds_engine_error(e));
    for (uint32_t p = 0; p < TENSORS; p++) {
        float values[ELEMENTS];
        float wanted = p < FROZEN ? 1 : 1 - (float)(rate_of(p % GROUPS) * (p % 5));
        cr_assert_eq(zds_get_values(e, p, NULL, keep, values), ZDS_OK, "%s", zds_engine_error(e));
        for (uint32_t i = 0; i < ELEMENTS; i++)
            cr_assert_eq(values[i], wanted, "parameter %u: %g, not %g", p, values[i], wanted);
    }
    zds_group_info info = {.struct_size = sizeof info};
    for (uint32_t g = 0; g < GROUPS; g++) {
        cr_assert(zds_group(e, g, &info));
        cr_assert_eq(info.declared, g);
        cr_assert_eq(info.hyper.lr, rate_of(g));
        cr_assert_eq(info.params, (TENSORS - FROZEN) / GROUPS);
        cr_assert_eq(info.elements, info.params * ELEMENTS);
    }
    cr_assert(!zds_group(e, GROUPS, &info));
    zds_engine_destroy(e);
    zds_config_destroy(config);
}

Test(many, a_name_is_taken_once)
{
    static const int64_t shape = ELEMENTS;
    zds_model *m = make_model();
    for (uint32_t i = 0; i < TENSORS; i += 999) {
        char name[32], text[96];
        snprintf(name, sizeof name, "layers.%u.weight", i);
        snprintf(text, sizeof text, "parameter %s: the name is taken", name);
        zds_param_desc d = {.struct_size = sizeof d, .name = name, .shape = &shape, .ndim = 1};
        cr_assert_eq(zds_model_add_param(m, 0, &d, NULL), ZDS_ERR_INVALID);
        cr_assert_str_eq(zds_model_error(m), text);
    }
    zds_model_destroy(m);
}

/* In whatever order modules list what they use. */
Test(many, a_use_is_declared_once)
{
    zds_model *m = zds_model_create();
    static const int64_t shape = ELEMENTS;
    zds_param_desc d = {.struct_size = sizeof d, .name = "w", .shape = &shape, .ndim = 1};
    for (uint32_t i = 0; i < 4; i++)
        cr_assert_eq(zds_model_add_module(m, "module", NULL), ZDS_OK);
    cr_assert_eq(zds_model_add_param(m, 0, &d, NULL), ZDS_OK);
    cr_assert_eq(zds_model_add_use(m, 3, 0), ZDS_OK);
    cr_assert_eq(zds_model_add_use(m, 1, 0), ZDS_OK);
    for (uint32_t i = 1; i < 4; i += 2)
        cr_assert_eq(zds_model_add_use(m, i, 0), ZDS_ERR_INVALID, "module %u", i);
    cr_assert_eq(zds_model_add_use(m, 2, 0), ZDS_OK);
    zds_model_destroy(m);
}
