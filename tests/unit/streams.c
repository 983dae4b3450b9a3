/* The memories that an update walks along together: a processor finds lines by parts of their
 * addresses, so that weights, gradients and states must not lie a multiple of a large power of two
 * apart. One tensor whose size is such a power; the optimizer, which looks where it is told to
 * work, is linked into the test. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zds/zds.h"

enum { ELEMENTS = 4 << 20, APART = 1 << 20, NEAR = 4096, STREAMS = 5 };

static const void *seen[STREAMS]; /* master, gradient, output, two states: of the first tile */

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    needs->state_count = 2;
    needs->states[0] = (zds_state_spec){.name = "exp_avg", .dtype = ZDS_F32};
    needs->states[1] = (zds_state_spec){.name = "exp_avg_sq", .dtype = ZDS_F32};
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self, (void)ctx;
    const zds_tile *t = zds_tile_at(tiles, 0);
    if (t->first == 0) {
        const void *now[STREAMS] = {t->master, t->grad, t->output, t->states[0], t->states[1]};
        memcpy(seen, now, sizeof seen);
    }
    return ZDS_OK;
}

static const zds_optim_ops optim_ops = {
    .struct_size = sizeof optim_ops,
    .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
    .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16),
    .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
    .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16),
    .describe = describe,
    .step = step};
static const zds_plugin optim = {.struct_size = sizeof optim,
                                 .kind = ZDS_KIND_OPTIM,
                                 .name = "Looks",
                                 .version = "1",
                                 .doc = "looks at addresses",
                                 .ops = &optim_ops};
static const zds_plugin *const linked[] = {&optim, NULL};

static zds_status ones(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param, (void)first;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 1;
    return ZDS_OK;
}

static void one_step(const char *json)
{
    static const int64_t shape = ELEMENTS;
    zds_config_context context = {.struct_size = sizeof context, .world_size = 1};
    zds_param_desc d = {.struct_size = sizeof d, .name = "w", .shape = &shape, .ndim = 1};
    zds_engine_options o = {
        .struct_size = sizeof o, .threads = 1, .optimizer = "Looks", .plugins = linked};
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_engine *e = NULL;
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins", 1);
    cr_assert_eq(zds_config_load(json, &context, &config, &error), ZDS_OK, "%s", error.text);
    zds_model *m = zds_model_create();
    cr_assert_eq(zds_model_add_module(m, d.name, NULL), ZDS_OK);
    cr_assert_eq(zds_model_add_param(m, 0, &d, NULL), ZDS_OK);
    cr_assert_eq(zds_engine_create(config, m, &o, &e, &error), ZDS_OK, "%s", error.text);
    zds_model_destroy(m);
    cr_assert_eq(zds_set_values(e, ones, NULL), ZDS_OK);
    zds_view v;
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    cr_assert_eq(zds_acquire(e, 0, ZDS_BACKWARD, NULL, &v), ZDS_OK);
    memset(v.slots[0].grad, 0, ELEMENTS * zds_dtype_size(v.slots[0].dtype));
    cr_assert_eq(zds_grad_ready(e, 0, NULL), ZDS_OK);
    cr_assert_eq(zds_step(e, NULL), ZDS_OK, "%s", zds_engine_error(e));
    zds_engine_destroy(e);
    zds_config_destroy(config);
}

/* How far they are from a multiple of APART. */
static uintptr_t between(const void *a, const void *b)
{
    uintptr_t rest = ((uintptr_t)a - (uintptr_t)b) % APART;
    return rest < APART - rest ? rest : APART - rest;
}

Test(streams, lie_no_power_of_two_apart)
{
    static const char *const rows[] = {
        "\"zero_optimization\":{\"stage\":0}",
        "\"zero_optimization\":{\"stage\":1}",
        "\"zero_optimization\":{\"stage\":1},\"bf16\":{\"enabled\":true}",
        "\"zero_optimization\":{\"stage\":2},\"bf16\":{\"enabled\":true}",
    };
    static const char *const names[STREAMS] = {"weights", "gradients", "output", "exp_avg",
                                               "exp_avg_sq"};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        char json[200];
        snprintf(json, sizeof json, "{\"train_micro_batch_size_per_gpu\":1,%s}", rows[r]);
        one_step(json);
        for (int a = 0; a < STREAMS; a++)
            for (int b = 0; b < a; b++)
                if (seen[a] && seen[b]) {
                    printf("%s: %s and %s: %zu\n", rows[r], names[a], names[b],
                           (size_t)between(seen[a], seen[b]));
                    cr_expect_geq(between(seen[a], seen[b]), NEAR, "%s: %s %p, %s %p", rows[r],
                                  names[a], seen[a], names[b], seen[b]);
                }
    }
}
