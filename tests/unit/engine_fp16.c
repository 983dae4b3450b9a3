/* fp16 in the engine, one rank: gradients are unscaled by the scale that they were made with, at
 * every stage alike; overflow changes nothing but the scale. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "engine_where.h"
#include "small_model.h"

static zds_engine *create(int stage, const char *fp16, const char *more)
{
    char json[512];
    zds_engine_options o = {.struct_size = sizeof o, .threads = 2, .world_size = 1, .seed = 5};
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_engine *e = NULL;
    zds_model *m = NULL;
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"optimizer\": {\"type\": \"AdamW\"}, "
             "\"zero_optimization\": {\"stage\": %d}, \"fp16\": {\"enabled\": true%s}%s}",
             stage, fp16, more);
    where_search();
    cr_assert_eq(zds_config_load(where_config(json), NULL, &config, &error), ZDS_OK, "%s",
                 error.text);
    cr_assert_eq(small_model(&m), ZDS_OK);
    cr_assert_eq(zds_engine_create(config, m, &o, &e, &error), ZDS_OK, "%s: %s", json, error.text);
    zds_model_destroy(m);
    cr_assert_eq(zds_set_values(e, small_values, NULL), ZDS_OK, "%s", zds_engine_error(e));
    return e; /* the config stays as long as the process */
}

/* A micro step whose gradients are `factor` times those of small_micro. */
static zds_step_result micro(zds_engine *e, uint64_t number, double factor)
{
    zds_step_result r = {.struct_size = sizeof r};
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert_eq(small_passes(e, number, factor * zds_loss_scale(e)), ZDS_OK);
    cr_assert_eq(zds_step(e, &r), ZDS_OK, "%s", zds_engine_error(e));
    return r;
}

static uint64_t hash(zds_engine *e)
{
    small_sum sum;
    cr_assert_eq(small_hash(e, &sum), ZDS_OK, "%s", zds_engine_error(e));
    cr_expect(sum.finite);
    return sum.hash;
}

enum { STEPS = 9 };

/* Scales are powers of two, which products with gradients of this size show exactly: whatever the
 * scale is, and however it moves, training must have the same bits. */
Test(engine_fp16, no_bit_depends_on_the_scale)
{
    static const char *const scales[] = {
        ", \"loss_scale\": 4", ", \"loss_scale\": 1024",
        ", \"initial_scale_power\": 2, \"loss_scale_window\": 2"}; /* grows in between */
    static const char *const more[] = {"", ", \"gradient_accumulation_steps\": 2",
                                       ", \"gradient_clipping\": 0"};
    for (size_t m = 0; m < sizeof more / sizeof *more; m++) {
        uint64_t first = 0;
        for (int stage = 0; stage <= 3; stage++)
            for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
                zds_engine *e = create(stage, scales[s], more[m]);
                cr_expect_eq(zds_param_dtype(e), ZDS_F16);
                double norm = 0;
                for (uint64_t i = 0; i < STEPS; i++)
                    norm = micro(e, i, 1).grad_norm;
                cr_expect(!(norm > 1e3), "the norm is scaled: %g", norm);
                uint64_t h = hash(e);
                first = stage || s ? first : h;
                cr_expect_eq(h, first, "stage %d%s%s", stage, scales[s], more[m]);
                zds_engine_destroy(e);
            }
    }
}

Test(engine_fp16, overflow_changes_nothing_but_the_scale)
{
    for (int stage = 0; stage <= 3; stage++) {
        zds_engine *e = create(stage, ", \"initial_scale_power\": 4, \"hysteresis\": 1",
                               ", \"scheduler\": {\"type\": \"WarmupLR\", \"params\": "
                               "{\"warmup_num_steps\": 100, \"warmup_type\": \"linear\"}}");
        zds_step_result r = micro(e, 0, 1);
        cr_expect(r.applied && r.loss_scale == 16);
        double rate = r.next_lr;
        uint64_t before = hash(e);
        r = micro(e, 1, 1e9);
        cr_expect(!r.applied && r.skipped && r.skips == 1 && r.steps == 1);
        cr_expect_eq(r.loss_scale, 8, "%g", r.loss_scale);
        cr_expect_eq(zds_loss_scale(e), 8);
        cr_expect_eq(r.next_lr, rate, "the schedule has moved");
        cr_expect_not(isfinite(r.grad_norm));
        cr_expect_eq(hash(e), before, "stage %d", stage);
        r = micro(e, 2, 1);
        cr_expect(r.applied && r.steps == 2 && isfinite(r.grad_norm));
        zds_engine_destroy(e);
    }
}

/* The run ends with an error, and what was trained can still be read. */
Test(engine_fp16, overflow_at_the_least_scale_ends_the_run)
{
    for (int stage = 0; stage <= 3; stage++) {
        zds_engine *e = create(
            stage, ", \"initial_scale_power\": 1, \"hysteresis\": 1, \"min_loss_scale\": 2", "");
        zds_step_result r = micro(e, 0, 1);
        uint64_t before = hash(e);
        cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
        cr_assert_eq(small_passes(e, 1, 1e9), ZDS_OK);
        cr_expect_eq(zds_step(e, &r), ZDS_ERR_OVERFLOW);
        cr_expect(r.skipped && r.loss_scale == 2);
        cr_expect(strstr(zds_engine_error(e), "fp16.min_loss_scale"), "%s", zds_engine_error(e));
        cr_expect_eq(hash(e), before, "stage %d", stage);
        zds_engine_destroy(e);
    }
}

/* Masters in fp16: the parameters are what is updated. */
Test(engine_fp16, trains_without_fp32_masters)
{
    for (int stage = 1; stage <= 3; stage++) {
        zds_engine *e =
            create(stage, ", \"loss_scale\": 4, \"fp16_master_weights_and_grads\": true", "");
        uint64_t before = hash(e);
        zds_memory_row row;
        for (uint64_t i = 0; i < STEPS; i++)
            cr_expect(micro(e, i, 1).applied);
        cr_expect_neq(hash(e), before);
        for (size_t i = 0; zds_memory_report(e, i, &row); i++)
            cr_expect_str_neq(row.purpose, "master weights");
        zds_engine_destroy(e);
    }
}
