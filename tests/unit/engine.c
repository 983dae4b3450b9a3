/* The engine with one rank: what each call does to parameters, in every stage and precision,
 * against formulas written here. */
#include "engine_descent.h"

Test(engine, one_step_in_every_stage_and_precision)
{
    static const char *const extra[] = {
        "",
        ",\"zero_optimization\":{\"stage\":1}",
        ",\"zero_optimization\":{\"stage\":2}",
        ",\"zero_optimization\":{\"stage\":2,\"overlap_comm\":false}",
        ",\"zero_optimization\":{\"stage\":2,\"reduce_scatter\":false}",
        ",\"zero_optimization\":{\"stage\":1},\"communication_data_type\":\"bf16\"",
        ",\"zero_optimization\":{\"stage\":2},\"communication_data_type\":\"fp32\""};
    for (size_t k = 0; k < sizeof extra / sizeof *extra; k++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            char json[400];
            snprintf(json, sizeof json,
                     "{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0%s%s}",
                     bf16 ? ",\"bf16\":{\"enabled\":true}" : "", extra[k]);
            fixture f = open_engine(json);
            zds_step_result r = {.struct_size = sizeof r};
            cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
            cr_assert(zds_is_boundary(f.engine));
            backward(f.engine, 0.25f, -1);
            cr_assert_eq(zds_step(f.engine, &r), ZDS_OK, "%s", zds_engine_error(f.engine));
            /* a is used twice, so its gradient is 0.5 */
            double norm = sqrt(SIZE_A * 0.25 + (SIZE_B + 70000) * 0.0625);
            cr_log_info("%s: norm %.9g, expected %.9g", json, r.grad_norm, norm);
            cr_assert(fabs(r.grad_norm - norm) < 1e-9 * norm);
            cr_assert(r.applied && r.steps == 1 && !r.skipped && r.lr == 0.5);
            cr_assert_eq(check(f.engine, A, NULL, moved, 0.25), 0);
            cr_assert_eq(check(f.engine, B, NULL, moved, 0.125), 0);
            cr_assert_eq(check(f.engine, C, NULL, moved, 0.125), 0);
            cr_assert_eq(check(f.engine, FROZEN, NULL, moved, 0), 0);
            cr_assert_eq(check(f.engine, C, "count", constant, 3), 0);
            cr_assert_eq(zds_get_values(f.engine, FROZEN, "count", compare, NULL),
                         ZDS_ERR_NOT_FOUND);
            close_engine(f);
        }
}

Test(engine, accumulation_by_count_and_by_the_caller)
{
    for (int stage = 0; stage < 4; stage++)
        for (int by_caller = 0; by_caller < 2; by_caller++)
            for (int bf16 = 0; bf16 < 2; bf16++) {
                char json[300];
                snprintf(
                    json, sizeof json,
                    "{\"train_micro_batch_size_per_gpu\":1,\"gradient_accumulation_steps\":3,"
                    "\"gradient_clipping\":0,"
                    "\"managed_gradient_accumulation\":%s,\"zero_optimization\":{\"stage\":%d}%s}",
                    by_caller ? "false" : "true", stage,
                    bf16 ? ",\"bf16\":{\"enabled\":true}" : "");
                fixture f = open_engine(json);
                cr_assert_eq(zds_loss_scale(f.engine), 1.0 / 3);
                if (by_caller)
                    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_ERR_INVALID);
                for (int step = 1; step <= 2; step++)
                    for (int micro = 0; micro < 3; micro++) {
                        zds_step_result r = {.struct_size = sizeof r};
                        int how = !by_caller   ? ZDS_BOUNDARY_AUTO
                                  : micro == 2 ? ZDS_BOUNDARY_YES
                                               : ZDS_BOUNDARY_NO;
                        cr_assert_eq(zds_micro_begin(f.engine, how), ZDS_OK);
                        backward(f.engine, 0.125f,
                                 micro == 1 ? B : -1); /* b has none in the second micro step */
                        cr_assert_eq(zds_step(f.engine, &r), ZDS_OK, "%s",
                                     zds_engine_error(f.engine));
                        cr_assert_eq(r.applied, micro == 2);
                    }
                cr_assert_eq(check(f.engine, A, NULL, moved, 2 * 0.5 * 0.75), 0);
                cr_assert_eq(check(f.engine, B, NULL, moved, 2 * 0.5 * 0.25), 0);
                cr_assert_eq(check(f.engine, C, NULL, moved, 2 * 0.5 * 0.375), 0);
                close_engine(f);
            }
}

Test(engine, a_parameter_without_gradient_is_left_alone)
{
    for (int stage = 0; stage < 4; stage++) {
        char json[200];
        snprintf(json, sizeof json,
                 "{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0,\"zero_"
                 "optimization\":{\"stage\":%d}}",
                 stage);
        fixture f = open_engine(json);
        for (int step = 0; step < 2;
             step++) { /* the second time its buffer holds the first's gradient */
            cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
            backward(f.engine, 0.25f, step ? C : -1);
            cr_assert_eq(zds_step(f.engine, NULL), ZDS_OK);
        }
        cr_assert_eq(check(f.engine, A, NULL, moved, 0.5), 0);
        cr_assert_eq(check(f.engine, C, NULL, moved, 0.125), 0);
        cr_assert_eq(check(f.engine, C, "count", constant, 3), 0);
        /* a module that is not reported at all */
        zds_view v;
        cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
        cr_assert_eq(zds_acquire(f.engine, 0, ZDS_BACKWARD, NULL, &v), ZDS_OK);
        cr_assert_eq(v.slots[0].accumulate, false);
        put(f.engine, &v.slots[0], same, 1);
        cr_assert_eq(zds_grad_ready(f.engine, 0, NULL), ZDS_OK);
        cr_assert_eq(zds_step(f.engine, NULL), ZDS_OK);
        cr_assert_eq(check(f.engine, A, NULL, moved, 1), 0);
        cr_assert_eq(check(f.engine, C, NULL, moved, 0.125), 0);
        close_engine(f);
    }
}

Test(engine, clipping_and_gradients_that_are_not_finite)
{
    for (int stage = 0; stage < 4; stage++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            char json[300];
            snprintf(json, sizeof json,
                     "{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":2.0,\"zero_"
                     "optimization\":{\"stage\":%d}%s}",
                     stage, bf16 ? ",\"bf16\":{\"enabled\":true}" : "");
            fixture f = open_engine(json);
            static const float bad[] = {NAN, INFINITY, -INFINITY};
            zds_step_result r = {.struct_size = sizeof r};
            for (int k = 0; k < 3; k++) {
                cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
                backward(f.engine, bad[k], -1);
                cr_assert_eq(zds_step(f.engine, &r), ZDS_OK);
                cr_assert(r.skipped && !r.applied && r.skips == k + 1 && r.steps == 0 &&
                          !isfinite(r.grad_norm));
            }
            cr_assert_eq(check(f.engine, A, NULL, moved, 0), 0);
            cr_assert_eq(check(f.engine, A, "count", constant, 2), 0);
            cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
            backward(f.engine, 1, -1);
            cr_assert_eq(zds_step(f.engine, &r), ZDS_OK);
            double norm = sqrt(SIZE_A * 4.0 + SIZE_B + 70000), factor = 2 / (norm + 1e-6);
            double off = check(f.engine, C, NULL, moved, 0.5 * factor);
            cr_log_info("clipped by %.6g, off by %.3g", factor, off);
            cr_assert(off < 1e-6 && r.applied);
            close_engine(f);
        }
}

Test(engine, unclipped_values_after_check_grad_overflow_false)
{
    fixture f = open_engine("{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0,\"zero_"
                            "optimization\":{\"stage\":2},"
                            "\"bf16\":{\"enabled\":true,\"check_grad_overflow\":false}}");
    zds_step_result r = {.struct_size = sizeof r};
    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
    backward(f.engine, INFINITY, -1);
    cr_assert_eq(zds_step(f.engine, &r), ZDS_OK);
    cr_assert(r.applied && !r.skipped);
    close_engine(f);
}

Test(engine, no_sync_and_batch_size)
{
    fixture f = open_engine("{\"train_micro_batch_size_per_gpu\":2,\"gradient_clipping\":0,\"zero_"
                            "optimization\":{\"stage\":1}}");
    cr_assert_eq(zds_no_sync(f.engine, true), ZDS_OK);
    for (int k = 0; k < 3; k++) {
        cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
        cr_assert(!zds_is_boundary(f.engine));
        backward(f.engine, 0.25f, -1);
    }
    cr_assert_eq(zds_step(f.engine, NULL), ZDS_ERR_INVALID);
    cr_assert_eq(zds_no_sync(f.engine, false), ZDS_OK);
    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
    backward(f.engine, 0.25f, -1);
    cr_assert_eq(zds_step(f.engine, NULL), ZDS_OK);
    cr_assert_eq(check(f.engine, C, NULL, moved, 0.5), 0);
    cr_assert_eq(zds_set_train_batch_size(f.engine, 5), ZDS_ERR_INVALID);
    cr_assert_eq(zds_set_train_batch_size(f.engine, INT64_MAX - 1), ZDS_ERR_INVALID);
    cr_assert(strstr(zds_engine_error(f.engine), "is the most"), "%s", zds_engine_error(f.engine));
    cr_assert_eq(zds_set_train_batch_size(f.engine, 8), ZDS_OK);
    cr_assert_eq(zds_accumulation_steps(f.engine), 4);
    close_engine(f);
    f = open_engine("{\"train_micro_batch_size_per_gpu\":2,\"zero_optimization\":{\"stage\":2}}");
    cr_assert_eq(zds_no_sync(f.engine, true), ZDS_ERR_UNSUPPORTED);
    cr_assert_not_null(strstr(zds_engine_error(f.engine), "stage 2"), "%s",
                       zds_engine_error(f.engine));
    close_engine(f);
}

typedef struct batch {
    int forwards, backwards;
    bool fail;
} batch;

static zds_status batch_forward(void *user, zds_engine *e, int64_t micro, double *loss)
{
    (void)e;
    batch *b = user;
    b->forwards++;
    *loss = 1 + (double)micro;
    return b->fail ? ZDS_ERR_FORMAT : ZDS_OK;
}

static zds_status batch_backward(void *user, zds_engine *e, int64_t micro, double scale)
{
    (void)micro;
    batch *b = user;
    b->backwards++;
    backward(e, (float)scale, -1);
    return ZDS_OK;
}

Test(engine, train_batch_drives_the_accumulation_loop)
{
    static const zds_model_ops ops = {
        .struct_size = sizeof ops, .forward = batch_forward, .backward = batch_backward};
    fixture f = open_engine("{\"train_micro_batch_size_per_gpu\":1,\"gradient_accumulation_steps\":"
                            "4,\"gradient_clipping\":0}");
    batch b = {0};
    zds_step_result r = {.struct_size = sizeof r};
    cr_assert_eq(zds_train_batch(f.engine, &ops, &b, &r), ZDS_OK, "%s", zds_engine_error(f.engine));
    cr_assert(b.forwards == 4 && b.backwards == 4 && r.applied);
    cr_assert_eq(r.loss, 2.5);
    cr_assert_eq(check(f.engine, C, NULL, moved, 0.5), 0);
    b.fail = true;
    cr_assert_eq(zds_train_batch(f.engine, &ops, &b, &r), ZDS_ERR_FORMAT);
    close_engine(f);
}

static float of_many_sizes(uint64_t i, float x)
{
    return x + sinf((float)(i + 1) * 0.7f) * expf((float)(i % 13) - 6);
}

Test(engine, threads_and_tiles_do_not_change_bits)
{
    /* 2 threads above, 1 and 3 here: the norm's bits must be the same. */
    double norms[3];
    for (int32_t threads = 1; threads <= 3; threads++) {
        fixture f = open_with(
            "{\"train_micro_batch_size_per_gpu\":1,\"zero_optimization\":{\"stage\":2}}", threads);
        zds_step_result r = {.struct_size = sizeof r};
        cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
        for (uint32_t m = MODULES; m-- > 0;) {
            zds_view v;
            cr_assert_eq(zds_acquire(f.engine, m, ZDS_BACKWARD, NULL, &v), ZDS_OK);
            for (uint32_t s = 0; s < v.count; s++)
                if (v.slots[s].grad)
                    put(f.engine, &v.slots[s], of_many_sizes, 0);
            cr_assert_eq(zds_grad_ready(f.engine, m, NULL), ZDS_OK);
        }
        cr_assert_eq(zds_step(f.engine, &r), ZDS_OK);
        norms[threads - 1] = r.grad_norm;
        close_engine(f);
    }
    cr_log_info("norms %.17g %.17g %.17g", norms[0], norms[1], norms[2]);
    cr_assert(norms[0] == norms[1] && norms[1] == norms[2]);
}
