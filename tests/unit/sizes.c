/* struct_size of what a program and the library tell each other: 0 is an oversight and refused, a
 * program's smaller struct is not written beyond its end, a larger one gets zeros. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "small_model.h"

static const char json[] = "{\"train_micro_batch_size_per_gpu\": 1, "
                           "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.001}}}";

typedef struct fixture {
    zds_config *config;
    zds_model *model;
    zds_engine *engine;
    zds_error error;
} fixture;

static fixture prepare(void)
{
    fixture f = {.error = ZDS_ERROR_INIT};
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins", 1);
    cr_assert_eq(zds_config_load(json, NULL, &f.config, &f.error), ZDS_OK, "%s", f.error.text);
    cr_assert_eq(small_model(&f.model), ZDS_OK);
    return f;
}

static void open_engine(fixture *f)
{
    const zds_engine_options o = {.struct_size = sizeof o, .threads = 1, .total_steps = -1};
    cr_assert_eq(zds_engine_create(f->config, f->model, &o, &f->engine, &f->error), ZDS_OK, "%s",
                 f->error.text);
    cr_assert_eq(zds_set_values(f->engine, small_values, NULL), ZDS_OK);
}

static void end(fixture *f)
{
    zds_engine_destroy(f->engine);
    zds_model_destroy(f->model);
    zds_config_destroy(f->config);
    zds_error_clear(&f->error);
}

/* Names the struct. */
static void expect_refusal(zds_status status, const char *text, const char *what)
{
    cr_expect_eq(status, ZDS_ERR_INVALID, "%s: %d", what, status);
    cr_expect(text && strstr(text, what) && strstr(text, "struct_size"), "%s: %s", what,
              text ? text : "no text");
}

/* The call comes before the text is read. */
#define REFUSED(call, text, what)                                                                  \
    do {                                                                                           \
        const zds_status got_ = (call);                                                            \
        expect_refusal(got_, (text), (what));                                                      \
    } while (0)

/* === what a program fills === */

Test(sizes, context_without_a_size)
{
    zds_config *config = NULL;
    zds_hf_config *hf = NULL;
    zds_error error = ZDS_ERROR_INIT;
    const zds_config_context none = {.world_size = 4, .arguments_source = "{}"};
    REFUSED(zds_config_load(json, &none, &config, &error), error.text, "zds_config_context");
    cr_expect_null(config);
    zds_error_clear(&error);
    const zds_config_context short_one = {.struct_size = sizeof(size_t)};
    REFUSED(zds_config_load(json, &short_one, &config, &error), error.text, "zds_config_context");
    zds_error_clear(&error);
    cr_assert_eq(zds_hf_config_create(json, &hf, &error), ZDS_OK);
    REFUSED(zds_hf_config_process(hf, &none, &error), error.text, "zds_config_context");
    zds_error_clear(&error);
    cr_expect_null(zds_hf_config_dtype(hf)); /* nothing was done */
    REFUSED(zds_hf_config_finalize(hf, &none, &error), error.text, "zds_config_context");
    zds_error_clear(&error);
    zds_hf_config_destroy(hf);
}

Test(sizes, parameter_without_a_size)
{
    zds_model *m = zds_model_create();
    const int64_t shape[] = {4};
    uint32_t param = 7;
    zds_param_desc desc = {.name = "w", .shape = shape, .ndim = 1};
    cr_assert_eq(zds_model_add_module(m, "h", NULL), ZDS_OK);
    REFUSED(zds_model_add_param(m, 0, &desc, &param), zds_model_error(m), "zds_param_desc");
    desc.struct_size = offsetof(zds_param_desc, width_mult); /* shorter than there ever was */
    REFUSED(zds_model_add_param(m, 0, &desc, &param), zds_model_error(m), "zds_param_desc");
    cr_expect_eq(param, 7);
    desc.struct_size = sizeof desc;
    cr_expect_eq(zds_model_add_param(m, 0, &desc, &param), ZDS_OK);
    zds_model_destroy(m);
}

static void count_rows(void *user, const zds_memory_row *row)
{
    (void)row;
    ++*(size_t *)user;
}

static void count_problems(void *user, const zds_problem *problem)
{
    (void)problem;
    ++*(size_t *)user;
}

static void expect_refused_options(const zds_engine_options *o, const char *what)
{
    fixture f = prepare();
    zds_schedule_point point;
    bool moves;
    size_t count = 0;
    REFUSED(zds_engine_create(f.config, f.model, o, &f.engine, &f.error), f.error.text, what);
    cr_expect_null(f.engine);
    zds_error_clear(&f.error);
    REFUSED(zds_engine_plan(f.config, f.model, o, count_rows, &count, &f.error), f.error.text,
            what);
    zds_error_clear(&f.error);
    REFUSED(zds_engine_check(f.config, o, count_problems, &count, &f.error), f.error.text, what);
    zds_error_clear(&f.error);
    REFUSED(zds_schedule_points(f.config, o, NULL, 1, &point, &moves, &f.error), f.error.text,
            what);
    cr_expect_eq(count, 0);
    end(&f);
}

Test(sizes, options_without_a_size)
{
    const zds_engine_options none = {.threads = 1};
    expect_refused_options(&none, "zds_engine_options");
    const zds_engine_options short_one = {.struct_size = sizeof(size_t), .threads = 1};
    expect_refused_options(&short_one, "zds_engine_options");
}

Test(sizes, groups_without_a_size)
{
    const zds_hyper all = ZDS_HYPER_NONE;
    zds_group_desc groups[2] = {{sizeof *groups, all}, {0, all}};
    zds_engine_options o = {.struct_size = sizeof o,
                            .threads = 1,
                            .groups = groups,
                            .group_count = 2,
                            .group_stride = sizeof *groups,
                            .keep_groups = true};
    expect_refused_options(&o, "group 1: struct_size of the zds_group_desc");
    static const size_t too_short[] = {8, 24, sizeof *groups - 8};
    for (size_t i = 0; i < sizeof too_short / sizeof *too_short; i++) {
        groups[1].struct_size = too_short[i];
        expect_refused_options(&o, "group 1: struct_size of the zds_group_desc");
    }
    groups[1].struct_size = sizeof *groups;
    for (size_t size = 0; size < sizeof all; size += 16) {
        groups[1].hyper.struct_size = size;
        expect_refused_options(&o, "group 1: struct_size of the zds_hyper");
    }
    groups[1].hyper.struct_size = sizeof all;
    o.group_stride = 0;
    fixture f = prepare();
    cr_expect_eq(zds_engine_create(f.config, f.model, &o, &f.engine, &f.error), ZDS_ERR_INVALID);
    cr_expect(f.error.text && strstr(f.error.text, "group_stride is 0"), "%s", f.error.text);
    end(&f);
}

static zds_status forward(void *user, zds_engine *engine, int64_t micro, double *loss)
{
    (void)engine;
    (void)micro;
    ++*(int *)user;
    *loss = 0;
    return ZDS_OK;
}

static zds_status backward(void *user, zds_engine *engine, int64_t micro, double loss_scale)
{
    (void)user;
    (void)micro;
    (void)loss_scale;
    return small_passes(engine, 1, 1);
}

Test(sizes, calls_of_a_step_without_a_size)
{
    fixture f = prepare();
    open_engine(&f);
    zds_step_result result = {.loss = 5};
    zds_model_ops ops = {.forward = forward, .backward = backward};
    zds_stream stream = {.device = {.space = ZDS_SPACE_HOST}};
    zds_view view;
    int calls = 0;
    REFUSED(zds_train_batch(f.engine, &ops, &calls, NULL), zds_engine_error(f.engine),
            "zds_model_ops");
    ops.struct_size = sizeof ops;
    REFUSED(zds_train_batch(f.engine, &ops, &calls, &result), zds_engine_error(f.engine),
            "zds_step_result");
    cr_expect_eq(calls, 0);
    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
    REFUSED(zds_acquire(f.engine, 0, ZDS_FORWARD, &stream, &view), zds_engine_error(f.engine),
            "zds_stream");
    stream.struct_size = sizeof stream.struct_size; /* says nothing of its device */
    REFUSED(zds_acquire(f.engine, 0, ZDS_FORWARD, &stream, &view), zds_engine_error(f.engine),
            "zds_stream");
    cr_assert_eq(small_passes(f.engine, 1, 1), ZDS_OK);
    REFUSED(zds_step(f.engine, &result), zds_engine_error(f.engine), "zds_step_result");
    cr_expect_eq(result.loss, 5);
    result.struct_size = sizeof result;
    cr_expect_eq(zds_step(f.engine, &result), ZDS_OK); /* the step is still to be made */
    cr_expect_eq(result.applied, 1);
    end(&f);
}

Test(sizes, where_a_run_stands_without_a_size)
{
    fixture f = prepare();
    open_engine(&f);
    zds_progress progress = {.struct_size = sizeof progress};
    cr_assert_eq(zds_get_progress(f.engine, &progress), ZDS_OK);
    REFUSED(zds_set_progress(f.engine, NULL), zds_engine_error(f.engine), "zds_progress");
    zds_state_info state = {.struct_size = sizeof state};
    cr_assert(zds_state(f.engine, 0, 0, &state));
    for (size_t size = 0; size < sizeof state; size += 16) {
        state.struct_size = size;
        REFUSED(zds_set_state_bytes(f.engine, 0, &state, NULL, NULL), zds_engine_error(f.engine),
                "zds_state_info");
    }
    for (size_t size = 0; size < sizeof progress; size += 8) {
        progress.struct_size = size;
        REFUSED(zds_set_progress(f.engine, &progress), zds_engine_error(f.engine), "zds_progress");
    }
    end(&f);
}

Test(sizes, ranks_without_a_size)
{
    zds_error error = ZDS_ERROR_INIT;
    const zds_bootstrap *bootstrap;
    REFUSED(zds_bootstrap_open(NULL, &bootstrap, &error), error.text, "zds_comm_env");
    zds_error_clear(&error);
    REFUSED(zds_launched_as(NULL, &error), error.text, "zds_comm_env");
    zds_error_clear(&error);
}

/* === what the library fills === */

Test(sizes, facts_without_a_size)
{
    fixture f = prepare();
    open_engine(&f);
    zds_group_info info = {.params = 99};
    zds_step_times times = {.step_ms = 99};
    cr_expect_not(zds_group(f.engine, 0, &info));
    cr_expect_eq(info.params, 99);
    zds_take_times(f.engine, &times);
    cr_expect_eq(times.step_ms, 99);
    info.struct_size = sizeof info;
    times.struct_size = sizeof times;
    cr_expect(zds_group(f.engine, 0, &info));
    cr_expect_eq(info.params, SMALL_PARAMS - 1);
    zds_take_times(f.engine, &times);
    cr_expect_neq(times.step_ms, 99);
    end(&f);
}

/* As of a program of an older and of a newer header. */
Test(sizes, rows_of_other_sizes)
{
    fixture f = prepare();
    open_engine(&f);
    zds_memory_row row, known;
    struct newer {
        zds_memory_row row;
        uint64_t later;
    } newer = {.later = 99};
    const size_t older = offsetof(zds_memory_row, shared);
    cr_assert(zds_memory_report(f.engine, 0, &row));
    cr_expect_eq(row.struct_size, sizeof row);
    memset(&known, 0x55, sizeof known);
    cr_assert(zds_memory_report_sized(f.engine, 0, &known, older));
    cr_expect_eq(known.struct_size, older);
    cr_expect_eq(known.bytes, row.bytes);
    cr_expect_eq(known.shared, 0x5555555555555555u);
    cr_assert(zds_memory_report_sized(f.engine, 0, &newer.row, sizeof newer));
    cr_expect_eq(newer.row.struct_size, sizeof row);
    cr_expect_eq(newer.later, 0);
    end(&f);
}
