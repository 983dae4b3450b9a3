/* Calls of a program that keeps its own loop: a step in two halves, micro steps that are given up,
 * rates and states of the program's own; one rank and two, and what is refused. */
#include "small_engine.h"

static zds_engine *open_on(const char *json, const char *scheduler, int size)
{
    where_search();
    return small_open(
        json, size,
        (zds_engine_options){.threads = 1, .optimizer = "AdamW", .scheduler = scheduler});
}

static zds_engine *open_engine(const char *json)
{
    return open_on(json, NULL, 1);
}

/* The same gradients on every rank, whatever the number of ranks is. */
static void passes(zds_engine *e, uint64_t micro, double factor)
{
    zds_view view;
    for (uint32_t m = SMALL_MODULES; m-- > 0;) {
        NEED(!zds_acquire(e, m, ZDS_BACKWARD, NULL, &view), "%s", zds_engine_error(e));
        for (size_t s = 0; s < view.count; s++)
            if (view.slots[s].grad)
                NEED(!small_gradient(e, &view.slots[s], 100 + 64 * micro,
                                     (float)(factor * zds_loss_scale(e))),
                     "gradient");
        NEED(!zds_grad_ready(e, m, NULL), "%s", zds_engine_error(e));
    }
}

static void begin(zds_engine *e)
{
    NEED(!zds_micro_begin(e, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(e));
}

static zds_step_result train(zds_engine *e, uint64_t micro)
{
    zds_step_result r = {.struct_size = sizeof r};
    begin(e);
    passes(e, micro, 1);
    NEED(!zds_step(e, &r), "%s", zds_engine_error(e));
    return r;
}

static const char *at_stage(int stage, const char *more)
{
    static char json[300];
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d}%s}",
             stage, more);
    return json;
}

static const char fp16[] = ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 3}";

/* === a step in two halves === */

static void halves(int rank, int size)
{
    for (int stage = 0; stage <= 3; stage++)
        for (int half = 0; half < 2; half++) {
            zds_engine *once = open_on(at_stage(stage, half ? fp16 : ""), NULL, size);
            zds_engine *e = open_on(at_stage(stage, half ? fp16 : ""), NULL, size);
            zds_step_result f = {.struct_size = sizeof f}, r = f, d = f;
            train(once, 0);
            begin(e);
            passes(e, 0, 1);
            uint64_t before = small_bits(e);
            NEED(!zds_finish(e, &f), "%s", zds_engine_error(e));
            NEED(!f.applied && !f.skipped && f.steps == 0 && isfinite(f.grad_norm), "finish");
            NEED(small_bits(e) == before || rank, "zds_finish has changed something");
            NEED(!zds_step(e, &r), "%s", zds_engine_error(e));
            NEED(r.applied && r.steps == 1 && r.grad_norm == f.grad_norm, "step after finish");
            NEED(small_bits(e) == small_bits(once) || rank, "in two halves, stage %d", stage);
            /* dropped, and the next step is as if it had not been */
            begin(e);
            passes(e, 7, 1);
            NEED(!zds_finish(e, NULL) && !zds_discard(e, &d), "%s", zds_engine_error(e));
            NEED(!d.applied && d.skipped && d.skips == 1 && d.steps == 1 && d.lr == d.next_lr &&
                     d.loss_scale == f.loss_scale,
                 "discard");
            NEED(small_bits(e) == small_bits(once) || rank, "zds_discard, stage %d", stage);
            NEED(train(e, 1).steps == 2, "a step after zds_discard");
            train(once, 1);
            NEED(small_bits(e) == small_bits(once) || rank, "after zds_discard, stage %d", stage);
            NEED(!zds_barrier(e), "%s", zds_engine_error(e));
            zds_engine_destroy(e);
            zds_engine_destroy(once);
        }
}

Test(engine_calls, a_step_in_two_halves)
{
    run(1, true, halves);
    run(2, true, halves);
}

static void overflow_discarded(int rank, int size)
{
    (void)rank, (void)size;
    zds_engine *e = open_engine(at_stage(1, ", \"fp16\": {\"enabled\": true, \"hysteresis\": 1, "
                                            "\"initial_scale_power\": 3}"));
    zds_step_result f = {.struct_size = sizeof f}, d = f;
    begin(e);
    passes(e, 0, 1e9);
    NEED(!zds_finish(e, &f) && f.skipped && f.loss_scale == 8, "it overflows");
    NEED(!zds_discard(e, &d) && d.skipped && d.skips == 1 && d.loss_scale == 4, "and the scale");
    zds_engine_destroy(e);
}

Test(engine_calls, an_overflow_that_is_discarded_still_moves_the_scale)
{
    run(1, true, overflow_discarded);
}

static void unlike_ends(int rank, int size)
{
    zds_engine *e = open_on(at_stage(1, ""), NULL, size);
    begin(e);
    passes(e, 0, 1);
    NEED(!zds_finish(e, NULL), "%s", zds_engine_error(e));
    zds_status status = rank ? zds_step(e, NULL) : zds_discard(e, NULL);
    NEED(status == ZDS_ERR_DIVERGED || status == ZDS_ERR_PEER, "%s", zds_status_name(status));
    NEED(strstr(zds_engine_error(e), "zds_discard"), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

Test(engine_calls, ranks_that_end_a_step_unlike_are_told)
{
    run(2, true, unlike_ends);
}

static void refused_halves(int rank, int size)
{
    (void)rank, (void)size;
    zds_engine *e =
        open_engine("{\"train_micro_batch_size_per_gpu\": 1, \"gradient_accumulation_steps\": 2}");
    TOLD(e, zds_finish(e, NULL), ZDS_ERR_INVALID, "outside");
    TOLD(e, zds_discard(e, NULL), ZDS_ERR_INVALID, "outside");
    begin(e);
    TOLD(e, zds_finish(e, NULL), ZDS_ERR_INVALID, "no boundary");
    passes(e, 0, 1);
    NEED(!zds_step(e, NULL), "%s", zds_engine_error(e));
    begin(e);
    TOLD(e, zds_discard(e, NULL), ZDS_ERR_INVALID, "zds_finish");
    zds_view view;
    NEED(!zds_acquire(e, 3, ZDS_BACKWARD, NULL, &view), "acquire");
    TOLD(e, zds_finish(e, NULL), ZDS_ERR_INVALID, "zds_grad_ready");
    for (size_t s = 0; s < view.count; s++)
        NEED(!view.slots[s].grad || !zds_grad_none(e, 3, (uint32_t)s), "none");
    NEED(!zds_grad_ready(e, 3, NULL), "ready");
    zds_step_result short_one = {0};
    TOLD(e, zds_finish(e, &short_one), ZDS_ERR_INVALID, "struct_size");
    NEED(!zds_finish(e, NULL), "%s", zds_engine_error(e));
    TOLD(e, zds_finish(e, NULL), ZDS_ERR_INVALID, "twice");
    TOLD(e, zds_set_lr(e, ZDS_ALL_GROUPS, 1), ZDS_ERR_INVALID, "zds_finish");
    TOLD(e, zds_micro_abandon(e), ZDS_ERR_INVALID, "zds_finish");
    TOLD(e, zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_ERR_INVALID, "within");
    TOLD(e, zds_acquire(e, 1, ZDS_BACKWARD, NULL, &view), ZDS_ERR_INVALID, "backward");
    NEED(!zds_acquire(e, 1, ZDS_FORWARD, NULL, &view) && !zds_release(e, 1, NULL), "forward");
    NEED(!zds_step(e, NULL), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

Test(engine_calls, halves_where_they_make_no_sense)
{
    run(1, true, refused_halves);
}

/* === micro steps that are given up === */

/* Where all ranks gather modules together none gives up alone. */
static int highest(int size)
{
    return on_island() && size > 1 ? 2 : 3;
}

/* Rank 0 gives up before any backward: it counts as zeros, as a rank that reports nothing. */
static void given_up_early(int rank, int size)
{
    for (int stage = 0; stage <= highest(size); stage++) {
        uint64_t hashes[2] = {0};
        for (int abandon = 0; abandon < 2; abandon++) {
            zds_engine *e = open_on(at_stage(stage, ""), NULL, size);
            zds_step_result r = {.struct_size = sizeof r};
            begin(e);
            if (rank)
                passes(e, 0, 1);
            else if (abandon)
                NEED(!zds_micro_abandon(e), "%s", zds_engine_error(e));
            NEED(!zds_step(e, &r), "%s", zds_engine_error(e));
            NEED(r.applied && !r.skipped, "stage %d", stage);
            hashes[abandon] = small_bits(e);
            NEED(!zds_barrier(e), "%s", zds_engine_error(e));
            zds_engine_destroy(e);
        }
        NEED(hashes[0] == hashes[1], "stage %d", stage);
    }
}

/* Rank 0 gives up in a backward, in the first or the last of two micro steps. */
static void given_up_late(int rank, int size)
{
    for (int stage = 0; stage <= highest(size); stage++)
        for (uint64_t which = 0; which < 2; which++) {
            zds_engine *e =
                open_on(at_stage(stage, ", \"gradient_accumulation_steps\": 2"), NULL, size);
            zds_engine *once =
                open_on(at_stage(stage, ", \"gradient_accumulation_steps\": 2"), NULL, size);
            zds_step_result r = {.struct_size = sizeof r};
            uint64_t before = small_bits(e);
            for (uint64_t i = 0; i < 2; i++) {
                zds_view view;
                begin(e);
                if (rank || i != which) {
                    passes(e, i, 1);
                } else {
                    NEED(!zds_acquire(e, 3, ZDS_BACKWARD, NULL, &view), "acquire");
                    NEED(!zds_grad_ready(e, 3, NULL), "ready");
                    NEED(!zds_acquire(e, 2, ZDS_BACKWARD, NULL, &view), "acquire");
                    float bad = NAN;
                    NEED(!zds_copy_in(e, view.slots[0].grad, &bad, sizeof bad), "copy");
                    NEED(!zds_micro_abandon(e), "%s", zds_engine_error(e));
                    TOLD(e, zds_acquire(e, 1, ZDS_BACKWARD, NULL, &view), ZDS_ERR_INVALID,
                         "backward");
                }
                NEED(!zds_step(e, &r), "%s", zds_engine_error(e));
            }
            NEED(!r.applied && r.skipped && r.skips == 1 && r.steps == 0, "stage %d", stage);
            NEED(small_bits(e) == before || rank, "stage %d", stage);
            for (uint64_t i = 2; i < 6; i++) {
                train(e, i);
                train(once, i);
            }
            NEED(small_bits(e) == small_bits(once) || rank, "the next steps, stage %d", stage);
            NEED(!zds_barrier(e), "%s", zds_engine_error(e));
            zds_engine_destroy(e);
            zds_engine_destroy(once);
        }
}

Test(engine_calls, micro_steps_that_are_given_up)
{
    run(2, true, given_up_early);
    run(2, true, given_up_late);
}

static void refused_abandon(int rank, int size)
{
    (void)rank, (void)size;
    zds_engine *e = open_engine(at_stage(1, ""));
    TOLD(e, zds_micro_abandon(e), ZDS_ERR_INVALID, "outside");
    NEED(!zds_no_sync(e, true), "no_sync");
    begin(e);
    TOLD(e, zds_micro_abandon(e), ZDS_ERR_INVALID, "zds_no_sync");
    zds_engine_destroy(e);
}

static void backward_that_is_over(int rank, int size)
{
    zds_engine *e = open_on(at_stage(1, ""), NULL, size);
    zds_view view;
    (void)rank;
    begin(e);
    NEED(!zds_micro_abandon(e), "%s", zds_engine_error(e));
    TOLD(e, zds_acquire(e, 2, ZDS_BACKWARD, NULL, &view), ZDS_ERR_INVALID,
         "after zds_micro_abandon");
    NEED(!zds_step(e, NULL), "%s", zds_engine_error(e));
    begin(e);
    passes(e, 0, 1);
    NEED(!zds_finish(e, NULL), "%s", zds_engine_error(e));
    TOLD(e, zds_acquire(e, 2, ZDS_BACKWARD, NULL, &view), ZDS_ERR_INVALID, "after zds_finish");
    NEED(!zds_step(e, NULL) && train(e, 1).steps == 2, "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

Test(engine_calls, a_backward_that_is_over_says_why)
{
    run(1, true, backward_that_is_over);
}

Test(engine_calls, abandon_where_it_makes_no_sense)
{
    run(1, true, refused_abandon);
}

/* === failing === */

static void fails(int rank, int size)
{
    zds_engine *e = open_on(at_stage(1, ""), NULL, size);
    begin(e);
    if (rank) {
        TOLD(e, zds_fail(e, ZDS_ERR_IO, "row %d of the data is torn", 17), ZDS_ERR_IO,
             "row 17 of the data");
        TOLD(e, zds_barrier(e), ZDS_ERR_INVALID, "row 17 of the data");
    } else {
        TOLD(e, zds_barrier(e), ZDS_ERR_PEER, "row 17 of the data is torn");
    }
    zds_engine_destroy(e);
}

static void fails_without_a_status(int rank, int size)
{
    (void)rank;
    zds_engine *e = open_on(at_stage(0, ""), NULL, size);
    TOLD(e, zds_fail(e, ZDS_OK, "it is over"), ZDS_ERR_INVALID, "it is over");
    TOLD(e, zds_fail(e, ZDS_OK, "again"), ZDS_ERR_INVALID, "it is over");
    zds_engine_destroy(e);
}

/* Callbacks that end the run and say that all is well. */
static zds_status end_forward(void *user, zds_engine *e, int64_t micro, double *loss)
{
    (void)micro;
    *loss = 1;
    if (user)
        zds_fail(e, ZDS_ERR_FORMAT, "row 5 is torn");
    return ZDS_OK;
}

static zds_status end_backward(void *user, zds_engine *e, int64_t micro, double loss_scale)
{
    (void)micro, (void)loss_scale;
    NEED(!user, "backward of a run that is over");
    zds_fail(e, ZDS_ERR_FORMAT, "row 5 is torn");
    return ZDS_OK;
}

static zds_status end_reading(void *user, uint32_t param, uint64_t first, uint64_t count,
                              float *out)
{
    (void)param, (void)first;
    memset(out, 0, count * sizeof *out);
    zds_fail(user, ZDS_ERR_FORMAT, "row 5 is torn");
    return ZDS_OK;
}

static void fails_in_silence(int rank, int size)
{
    static const zds_model_ops ops = {sizeof ops, end_forward, end_backward};
    for (int forward = 0; forward < 2; forward++) {
        zds_engine *e = open_on(at_stage(0, ""), NULL, size);
        TOLD(e, zds_train_batch(e, &ops, forward ? e : NULL, NULL), ZDS_ERR_FORMAT,
             "row 5 is torn");
        zds_engine_destroy(e);
    }
    (void)rank;
    zds_engine *e = open_on(at_stage(0, ""), NULL, size);
    TOLD(e, zds_set_values(e, end_reading, e), ZDS_ERR_FORMAT, "row 5 is torn");
    zds_engine_destroy(e);
}

Test(engine_calls, failing_is_never_told_as_something_else)
{
    run(1, true, fails_without_a_status);
    run(1, true, fails_in_silence);
}

/* === the loop of the library === */

static zds_status backward_to_infinity(void *user, zds_engine *e, int64_t micro, double loss_scale)
{
    (void)user, (void)loss_scale;
    passes(e, (uint64_t)micro, INFINITY);
    return ZDS_OK;
}

static void last_step_fails(int rank, int size)
{
    static const zds_model_ops ops = {sizeof ops, end_forward, backward_to_infinity};
    zds_engine *e = open_on("{\"train_micro_batch_size_per_gpu\": 1, \"fp16\": {\"enabled\": true, "
                            "\"initial_scale_power\": 0, \"hysteresis\": 1}}",
                            NULL, size);
    zds_step_result r = {.struct_size = sizeof r, .steps = 99, .skips = 99};
    (void)rank;
    TOLD(e, zds_train_batch(e, &ops, NULL, &r), ZDS_ERR_OVERFLOW, "min_loss_scale");
    NEED(r.steps == 0 && r.skips == 1 && r.skipped && !r.applied && r.loss_scale == 1,
         "what the step tells");
    zds_engine_destroy(e);
}

Test(engine_calls, a_batch_whose_step_fails_tells_of_it)
{
    run(1, true, last_step_fails);
}

Test(engine_calls, a_rank_that_fails_says_why)
{
    run(2, true, fails);
}

/* === the program's own bytes === */

static void broadcasts(int rank, int size)
{
    enum { BYTES = 9 << 20 }; /* more than goes at once */
    zds_engine *e = open_on(at_stage(0, ""), NULL, size);
    char *data = malloc(BYTES);
    for (int root = 0; root < size; root++) {
        for (size_t i = 0; i < BYTES; i++)
            data[i] = (char)(rank == root ? i * 31 + (size_t)root : 0);
        NEED(!zds_broadcast(e, data, BYTES, root), "%s", zds_engine_error(e));
        for (size_t i = 0; i < BYTES; i++)
            NEED(data[i] == (char)(i * 31 + (size_t)root), "byte %zu", i);
    }
    NEED(!zds_broadcast(e, NULL, 0, 0), "nothing");
    TOLD(e, zds_broadcast(e, data, 1, size), ZDS_ERR_INVALID, "no rank");
    TOLD(e, zds_broadcast(e, data, 1, -1), ZDS_ERR_INVALID, "no rank");
    TOLD(e, zds_broadcast(e, NULL, 1, 0), ZDS_ERR_INVALID, "NULL");
    NEED(!zds_barrier(e), "%s", zds_engine_error(e));
    free(data);
    zds_engine_destroy(e);
}

/* Ranks that give other sizes, of one go and of several. */
static void unlike_broadcasts(int rank, int size)
{
    static const uint64_t sizes[][2] = {{8, 4}, {0, 8}, {8, 0}, {8 << 20, 4 << 20}, {0, 8 << 20}};
    char *data = calloc(1, 8 << 20);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        zds_engine *e = open_on(at_stage(0, ""), NULL, size);
        TOLD(e, zds_broadcast(e, data, sizes[i][rank], 0), ZDS_ERR_DIVERGED, "bytes");
        zds_engine_destroy(e);
    }
    free(data);
}

Test(engine_calls, broadcasts_of_other_sizes_are_told_at_once)
{
    run(2, true, unlike_broadcasts);
}

Test(engine_calls, broadcasts)
{
    run(1, true, broadcasts);
    run(3, true, broadcasts);
}

/* === rates === */

static void rates(int rank, int size)
{
    (void)rank;
    zds_engine *e = open_on(at_stage(1, ""), NULL, size);
    zds_group_info info = {.struct_size = sizeof info};
    NEED(!zds_set_lr(e, ZDS_ALL_GROUPS, 0), "%s", zds_engine_error(e));
    NEED(zds_group(e, 0, &info) && info.hyper.lr == 0, "the group's");
    zds_step_result r = train(e, 0);
    NEED(r.applied && r.lr == 0 && r.next_lr == 0, "%g", r.lr);
    NEED(!zds_set_lr(e, 0, 0.25), "%s", zds_engine_error(e));
    r = train(e, 1);
    NEED(r.lr == 0.25 && r.next_lr == 0.25, "%g", r.lr);
    TOLD(e, zds_set_lr(e, 1, 1), ZDS_ERR_NOT_FOUND, "group 1");
    TOLD(e, zds_set_lr(e, 0, NAN), ZDS_ERR_INVALID, "rate");
    TOLD(e, zds_set_lr(e, 0, -1), ZDS_ERR_INVALID, "rate");
    TOLD(e, zds_set_lr(e, 0, 1e300), ZDS_ERR_INVALID, "fp32");
    NEED(!zds_barrier(e), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
    e = open_on(at_stage(1, ""), "WarmupLR", size);
    TOLD(e, zds_set_lr(e, 0, 1), ZDS_ERR_INVALID, "WarmupLR");
    zds_engine_destroy(e);
}

static void unlike_rates(int rank, int size)
{
    zds_engine *e = open_on(at_stage(2, ""), NULL, size);
    NEED(!zds_set_lr(e, 0, rank ? 0.5 : 0.25), "%s", zds_engine_error(e));
    begin(e);
    passes(e, 0, 1);
    TOLD(e, zds_step(e, NULL), ZDS_ERR_DIVERGED, "zds_set_lr");
    zds_engine_destroy(e);
}

Test(engine_calls, rates_of_the_program)
{
    run(1, true, rates);
    run(2, true, rates);
    run(2, true, unlike_rates);
}

/* === states and progress === */

static zds_status broken_read(void *user, uint32_t param, uint64_t first, uint64_t count,
                              float *out)
{
    (void)user, (void)param, (void)first, (void)count, (void)out;
    return ZDS_ERR_IO;
}

static void refused_states(int rank, int size)
{
    (void)rank;
    zds_engine *e = open_on(at_stage(1, ""), NULL, size);
    zds_progress p = {.struct_size = sizeof p};
    TOLD(e, zds_set_state(e, SMALL_PARAMS, NULL, small_values, NULL), ZDS_ERR_NOT_FOUND,
         "model has");
    TOLD(e, zds_set_state(e, SMALL_FROZEN, NULL, small_values, NULL), ZDS_ERR_NOT_FOUND, "frozen");
    TOLD(e, zds_set_state(e, 0, "momentum", small_values, NULL), ZDS_ERR_NOT_FOUND,
         "no state momentum");
    if (size == 1) /* others than rank 0 need none */
        TOLD(e, zds_set_state(e, 0, NULL, NULL, NULL), ZDS_ERR_INVALID, "function");
    TOLD(e, zds_get_progress(e, NULL), ZDS_ERR_INVALID, "struct_size");
    NEED(!zds_get_progress(e, &p) && p.steps == 0 && p.loss_scale == 1, "progress");
    p.steps = -1;
    TOLD(e, zds_set_progress(e, &p), ZDS_ERR_INVALID, "counts");
    p.steps = INT64_MAX;
    TOLD(e, zds_set_progress(e, &p), ZDS_ERR_INVALID, "counts");
    p.steps = 3;
    p.loss_scale = 1e-300;
    TOLD(e, zds_set_progress(e, &p), ZDS_ERR_INVALID, "loss_scale");
    p.loss_scale = 64;
    TOLD(e, zds_set_progress(e, &p), ZDS_ERR_INVALID, "fp16");
    p.loss_scale = NAN;
    TOLD(e, zds_set_progress(e, &p), ZDS_ERR_INVALID, "loss_scale");
    p.loss_scale = 1;
    p.struct_size = 8;
    TOLD(e, zds_set_progress(e, &p), ZDS_ERR_INVALID, "struct_size");
    TOLD(e, zds_set_schedule_state(e, &p, 8), ZDS_ERR_INVALID, "another schedule");
    begin(e);
    p.struct_size = sizeof p;
    TOLD(e, zds_set_progress(e, &p), ZDS_ERR_INVALID, "middle");
    TOLD(e, zds_set_state(e, 0, NULL, small_values, NULL), ZDS_ERR_INVALID, "middle");
    passes(e, 0, 1);
    NEED(!zds_step(e, NULL), "%s", zds_engine_error(e));
    NEED(!zds_set_progress(e, &p), "%s", zds_engine_error(e));
    NEED(train(e, 1).steps == 4, "the next step is number 4");
    TOLD(e, zds_set_state(e, 0, NULL, broken_read, NULL), ZDS_ERR_IO, "new engine");
    zds_view view;
    TOLD(e, zds_acquire(e, 0, ZDS_FORWARD, NULL, &view), ZDS_ERR_INVALID, "new engine");
    zds_engine_destroy(e);
}

static void constant_state(int rank, int size)
{
    (void)rank, (void)size;
    zds_engine *e = open_engine("{\"train_micro_batch_size_per_gpu\": 1, \"optimizer\": {\"type\": "
                                "\"Lion\"}}");
    TOLD(e, zds_set_state(e, 0, "exp_avg_sq", small_values, NULL), ZDS_ERR_INVALID, "stays so");
    TOLD(e, zds_set_state(e, 0, "exp_avg_sq", broken_read, NULL), ZDS_ERR_IO, "could not be read");
    NEED(train(e, 0).applied, "and the engine goes on");
    zds_engine_destroy(e);
}

/* What was set belonged to the values before. */
static void values_again(int rank, int size)
{
    zds_engine *fresh = open_on(at_stage(1, fp16), NULL, size);
    zds_engine *e = open_on(at_stage(1, fp16), NULL, size);
    NEED(!zds_set_state(e, 0, "exp_avg", small_values, NULL), "%s", zds_engine_error(e));
    NEED(small_bits(e) != small_bits(fresh) || rank, "a state is set");
    NEED(!zds_set_values(e, small_values, NULL), "%s", zds_engine_error(e));
    NEED(small_bits(e) == small_bits(fresh) || rank, "a state is as it was set");
    zds_progress start;
    start.struct_size = sizeof start;
    NEED(!zds_get_progress(e, &start), "%s", zds_engine_error(e));
    train(e, 0);
    NEED(!zds_set_progress(e, &start) && !zds_set_values(e, small_values, NULL), "%s",
         zds_engine_error(e));
    NEED(small_bits(e) == small_bits(fresh) || rank, "a state is as a step has left it");
    NEED(zds_fail(NULL, ZDS_ERR_IO, "nothing") == ZDS_ERR_INVALID, "no engine");
    zds_engine_destroy(e);
    zds_engine_destroy(fresh);
}

static void unlike_progress(int rank, int size)
{
    zds_engine *e = open_on(at_stage(0, ""), NULL, size);
    const zds_progress p = {
        .struct_size = sizeof p, .steps = rank, .loss_scale = 1, .scale_overflow = -1};
    TOLD(e, zds_set_progress(e, &p), ZDS_ERR_DIVERGED, "zds_set_progress");
    zds_engine_destroy(e);
    e = open_on(at_stage(0, fp16), NULL, size);
    zds_progress scaled = p;
    scaled.steps = 0;
    scaled.loss_scale = rank ? 4 : 2;
    TOLD(e, zds_set_progress(e, &scaled), ZDS_ERR_INVALID, "scale_patience");
    scaled.scale_patience = 1;
    TOLD(e, zds_set_progress(e, &scaled), ZDS_ERR_DIVERGED, "zds_set_progress");
    zds_engine_destroy(e);
}

Test(engine_calls, states_and_progress_that_make_no_sense)
{
    run(1, true, refused_states);
    run(2, true, refused_states);
    run(1, true, constant_state);
    run(1, true, values_again);
    run(2, true, values_again);
    run(2, true, unlike_progress);
}
