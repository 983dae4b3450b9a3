/* Effective values: coercion as pydantic does it, defaults, old spellings, the batch triangle, what
 * keys say about each other, and what an engine refuses. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"
#include "json.h"

static zds_config *load(const char *text, int32_t world_size)
{
    zds_config *c = NULL;
    zds_error error = ZDS_ERROR_INIT;
    zds_config_context context = {.struct_size = sizeof context, .world_size = world_size};
    zds_config_load(text, &context, &c, &error);
    cr_assert(c, "%s: %s", text, error.text);
    zds_error_clear(&error);
    return c;
}

/* True if an error (of `check`, or any) is at `path` and says `text`. */
static bool has_error(const zds_config *c, int32_t check, const char *path, const char *text)
{
    zds_problem p;
    for (size_t i = 0; zds_config_problem(c, i, &p); i++)
        if (p.severity == ZDS_PROBLEM_ERROR && (check < 0 || p.check == check) &&
            strcmp(p.path, path) == 0 && strstr(p.message, text))
            return true;
    return false;
}

static void expect_error(const char *text, int32_t check, const char *path, const char *message)
{
    zds_config *c = load(text, 1);
    char *all = zds_config_problems_text(c);
    cr_expect(has_error(c, check, path, message), "%s: no \"%s\" at %s in\n%s", text, message, path,
              all ? all : "nothing");
    free(all);
    zds_config_destroy(c);
}

static void expect_clean(const char *text)
{
    zds_config *c = load(text, 1);
    char *all = zds_config_problems_text(c);
    cr_expect_not(config_has_errors(c, -1), "%s:\n%s", text, all);
    free(all);
    zds_config_destroy(c);
}

/* === types === */

/* What DeepSpeedZeroConfig(reduce_bucket_size=...) makes of it; -1: an error. */
Test(config_values, integers)
{
    static const struct {
        const char *text;
        int64_t value;
    } cases[] = {{"500", 500},     {"5e8", 500000000}, {"5.0", 5},      {"\"500\"", 500},
                 {"\"5.0\"", 5},   {"\" 7 \"", 7},     {"true", 1},     {"\"1_000\"", 1000},
                 {"\"+5\"", 5},    {"1.5", -1},        {"null", -1},    {"\"5e8\"", -1},
                 {"\"5.5\"", -1},  {"false", -1},      {"0", -1},       {"\"\"", -1},
                 {"[1]", -1},      {"{}", -1},         {"1e30", -1},    {"\"-0\"", -1},
                 {"\"0x10\"", -1}, {"\"nan\"", -1},    {"\"1__0\"", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        snprintf(text, sizeof text,
                 "{\"train_batch_size\": 1, \"zero_optimization\": {\"reduce_bucket_size\": %s}}",
                 cases[i].text);
        zds_config *c = load(text, 1);
        bool bad = has_error(c, ZDS_CHECK_DEEPSPEED, "zero_optimization.reduce_bucket_size", "");
        cr_expect_eq(bad, cases[i].value < 0, "%s", cases[i].text);
        if (cases[i].value >= 0)
            cr_expect_eq(zds_config_int(c, "zero_optimization.reduce_bucket_size"), cases[i].value,
                         "%s", cases[i].text);
        zds_config_destroy(c);
    }
}

/* contiguous_gradients=...: 0 and 1, else an error. */
Test(config_values, booleans)
{
    static const struct {
        const char *text;
        int value;
    } cases[] = {{"true", 1},       {"false", 0},   {"1", 1},      {"0", 0},     {"1.0", 1},
                 {"\"yes\"", 1},    {"\"No\"", 0},  {"\"On\"", 1}, {"\"t\"", 1}, {"\"0\"", 0},
                 {"\" true\"", -1}, {"2", -1},      {"1.5", -1},   {"null", -1}, {"\"\"", -1},
                 {"[]", -1},        {"\"auto\"", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        snprintf(text, sizeof text,
                 "{\"train_batch_size\": 1, \"zero_optimization\": {\"contiguous_gradients\": %s}}",
                 cases[i].text);
        zds_config *c = load(text, 1);
        bool bad = has_error(c, ZDS_CHECK_DEEPSPEED, "zero_optimization.contiguous_gradients", "");
        cr_expect_eq(bad, cases[i].value < 0, "%s", cases[i].text);
        if (cases[i].value >= 0)
            cr_expect_eq(zds_config_bool(c, "zero_optimization.contiguous_gradients"),
                         cases[i].value == 1, "%s", cases[i].text);
        zds_config_destroy(c);
    }
}

Test(config_values, defaults)
{
    zds_config *c = load("{\"train_micro_batch_size_per_gpu\": 2}", 4);
    cr_expect_eq(zds_config_int(c, "train_batch_size"), 8);
    cr_expect_eq(zds_config_int(c, "gradient_accumulation_steps"), 1);
    cr_expect_eq(zds_config_float(c, "gradient_clipping"), 1.0);
    cr_expect_eq(zds_config_int(c, "steps_per_print"), 2000);
    cr_expect_eq(zds_config_int(c, "zero_optimization.stage"), 0);
    cr_expect_eq(zds_config_float(c, "zero_optimization.offload_optimizer.cpuadam_cores_perc"),
                 0.8);
    cr_expect_not(zds_config_bool(c, "zero_optimization.overlap_comm"));
    cr_expect_null(zds_config_string(c, "communication_data_type"));
    cr_expect_str_eq(zds_config_string(c, "gradient_allreduce_op"), "mean");
    cr_expect_null(zds_config_node(c, "optimizer.params"));
    cr_expect_not(zds_config_is_set(c, "zero_optimization.stage"));
    zds_config_destroy(c);

    c = load("{\"train_batch_size\": 1, \"steps_per_print\": null,\n\"zero_optimization\": "
             "{\"stage\": 3, \"max_live_parameters\": 5}}",
             1);
    cr_expect_eq(zds_config_int(c, "steps_per_print"), INT64_MIN);
    cr_expect_not(zds_config_is_set(c, "steps_per_print"));
    cr_expect(zds_config_bool(c, "zero_optimization.overlap_comm"));
    cr_expect_eq(zds_config_int(c, "zero_optimization.stage3_max_live_parameters"), 5);
    cr_expect_eq(zds_config_int(c, "zero_optimization.max_live_parameters"), 5);
    cr_expect_str_eq(zds_config_place(c, "zero_optimization.stage"), "<string>:2:32");
    zds_config_destroy(c);
}

/* === unknown, removed, deprecated === */

Test(config_values, keys_that_are_not)
{
    expect_error("{\"train_batch_size\":1,\"zero_optimization\":{\"overlap_com\":true}}",
                 ZDS_CHECK_DEEPSPEED, "zero_optimization.overlap_com",
                 "did you mean overlap_comm?");
    expect_error("{\"train_batch_size\":1,\"gradient_cliping\":1}", ZDS_CHECK_ZDS,
                 "gradient_cliping", "did you mean gradient_clipping?");
    expect_error("{\"train_batch_size\":1,\"overlap_comm\":true}", ZDS_CHECK_ZDS, "overlap_comm",
                 "it belongs in zero_optimization");
    expect_error("{\"train_batch_size\":1,\"zero_optimization\":{\"bf16\":{}}}",
                 ZDS_CHECK_DEEPSPEED, "zero_optimization.bf16", "it belongs at the top level");
    expect_error("{\"train_batch_size\":1,\"aio\":{\"pin_memory\":true}}", ZDS_CHECK_ZDS,
                 "aio.pin_memory",
                 "it belongs in zero_optimization.offload_optimizer or "
                 "zero_optimization.offload_param");
    expect_error("{\"train_batch_size\":1,\"zero_optimization.stage\":1}", ZDS_CHECK_ZDS,
                 "zero_optimization.stage", "write \"zero_optimization\": {\"stage\": ...}");
    expect_error("{\"train_batch_size\":1,\"elasticity\":null}", ZDS_CHECK_DEEPSPEED, "elasticity",
                 "removed");
    expect_error("{\"train_batch_size\":1,\"zero_optimization\":{\"mics_shard_size\":false}}",
                 ZDS_CHECK_DEEPSPEED, "zero_optimization.mics_shard_size", "MiCS");
    expect_error("{\"train_batch_size\":1,\"zero_optimization\":{\"max_live_parameters\":1,"
                 "\"stage3_max_live_parameters\":1}}",
                 ZDS_CHECK_DEEPSPEED, "zero_optimization.stage3_max_live_parameters",
                 "another spelling");
    expect_error("{\"train_batch_size\":1,\"zero_optimization\":null}", ZDS_CHECK_DEEPSPEED,
                 "zero_optimization", "not a section");
    expect_error("{\"train_batch_size\":1,\n\"train_batch_size\":1}", ZDS_CHECK_SYNTAX,
                 "train_batch_size", "first at 1:2");
    expect_clean("{\"train_batch_size\":1,\"aio\":null,\"zero_optimization\":{\"offload_param\":"
                 "null}}");
}

Test(config_values, old_spellings)
{
    zds_config *c =
        load("{\"train_batch_size\":1,\"zero_optimization\":{\"cpu_offload\":true}}", 1);
    cr_expect_str_eq(zds_config_string(c, "zero_optimization.offload_optimizer.device"), "cpu");
    cr_expect_not(config_has_errors(c, -1));
    zds_config_destroy(c);
    c = load("{\"train_batch_size\":1,\"zero_optimization\":true,\"allgather_size\":64}", 1);
    cr_expect_eq(zds_config_int(c, "zero_optimization.stage"), 1);
    cr_expect_eq(zds_config_int(c, "zero_optimization.allgather_bucket_size"), 64);
    zds_config_destroy(c);
    c = load("{\"train_batch_size\":1,\"bfloat16\":{\"enabled\":true}}", 1);
    cr_expect(zds_config_bool(c, "bf16.enabled"));
    zds_config_destroy(c);
    expect_error("{\"train_batch_size\":1,\"zero_optimization\":{\"cpu_offload\":false,"
                 "\"offload_optimizer\":{}}}",
                 ZDS_CHECK_DEEPSPEED, "zero_optimization.cpu_offload", "old form");
}

/* === batch sizes === */

/* 0: absent. As _set_batch_related_parameters and _batch_assertion of DeepSpeed. */
Test(config_values, batch_triangle)
{
    static const struct {
        int train, micro, gas, world, wants[3];
    } cases[] = {{32, 4, 2, 4, {32, 4, 2}}, {32, 4, 0, 2, {32, 4, 4}}, {32, 0, 2, 4, {32, 4, 2}},
                 {0, 4, 2, 3, {24, 4, 2}},  {32, 0, 0, 4, {32, 8, 1}}, {0, 4, 0, 4, {16, 4, 1}},
                 {32, 4, 2, 2, {0}},        {33, 4, 0, 2, {0}},        {2, 0, 0, 4, {0}},
                 {0, 0, 2, 1, {0}},         {-8, 0, 0, 1, {0}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256] = "{", item[64];
        const char *names[] = {"train_batch_size", "train_micro_batch_size_per_gpu",
                               "gradient_accumulation_steps"};
        int given[] = {cases[i].train, cases[i].micro, cases[i].gas};
        for (size_t k = 0; k < 3; k++) {
            snprintf(item, sizeof item, "\"%s\": %d,", names[k], given[k]);
            strcat(text, given[k] ? item : "");
        }
        strcat(text, "}");
        zds_config *c = load(text, cases[i].world);
        bool good = cases[i].wants[0] != 0;
        cr_expect_eq(config_has_errors(c, ZDS_CHECK_DEEPSPEED), !good, "%s", text);
        for (size_t k = 0; good && k < 3; k++)
            cr_expect_eq(zds_config_int(c, names[k]), cases[i].wants[k], "%s: %s", text, names[k]);
        zds_config_destroy(c);
    }
}

/* A message has the numbers that someone wrote, and where; what follows from them; and what to
 * write. */
Test(config_values, batch_messages)
{
    static const struct {
        int world;
        const char *text, *arguments, *path, *message;
    } cases[] = {
        {3,
         "{\"train_batch_size\":32,\n\"train_micro_batch_size_per_gpu\":4,\n"
         "\"gradient_accumulation_steps\":2}",
         NULL, "train_batch_size",
         "32 is not train_micro_batch_size_per_gpu 4 (2:34) x gradient_accumulation_steps 2 (3:31) "
         "x "
         "3 ranks = 24; change one of them, or delete one so that it follows from the others"},
        {1, "{\"train_batch_size\":32,\n\"train_micro_batch_size_per_gpu\":5}", NULL,
         "train_batch_size",
         "32 is no multiple of train_micro_batch_size_per_gpu 5 (2:34) x 1 rank = 5; write 30 or "
         "35, "
         "or change train_micro_batch_size_per_gpu"},
        {4, "{\"train_batch_size\":33,\n\"gradient_accumulation_steps\":2}", NULL,
         "train_batch_size",
         "33 is no multiple of gradient_accumulation_steps 2 (2:31) x 4 ranks = 8; write 32 or 40, "
         "or change gradient_accumulation_steps"},
        {4, "{\"train_batch_size\":33}", NULL, "train_batch_size",
         "33 samples cannot be shared equally by 4 ranks; write 32 or 36"},
        {4, "{\"train_batch_size\":3}", NULL, "train_batch_size",
         "3 samples cannot be shared equally by 4 ranks; write 4"},
        {4,
         "{\"train_micro_batch_size_per_gpu\":4000000000,\n"
         "\"gradient_accumulation_steps\":4000000000}",
         NULL, "train_micro_batch_size_per_gpu",
         "train_micro_batch_size_per_gpu 4000000000 (1:35) x gradient_accumulation_steps "
         "4000000000 "
         "(2:31) x 4 ranks is 64000000000000000000 samples a step, more than can be counted; write "
         "smaller numbers"},
        {2147483647,
         "{\"train_batch_size\":9223372036854774784,\"train_micro_batch_size_per_gpu\":"
         "9223372036854774784,\"gradient_accumulation_steps\":9223372036854774784}",
         NULL, "train_batch_size",
         "9223372036854774784 is not train_micro_batch_size_per_gpu 9223372036854774784 (1:74) x "
         "gradient_accumulation_steps 9223372036854774784 (1:124) x 2147483647 ranks = more than "
         "10^38; change one of them, or delete one so that it follows from the others"},
        {2,
         "{\"train_batch_size\":16,\"train_micro_batch_size_per_gpu\":\"auto\","
         "\"gradient_accumulation_steps\":\"auto\"}",
         "{\"per_device_train_batch_size\":3}", "train_batch_size",
         "16 is not train_micro_batch_size_per_gpu 3 (from the training argument "
         "per_device_train_batch_size) x gradient_accumulation_steps 1 (the default of "
         "gradient_accumulation_steps) x 2 ranks = 6; change one of them, or delete one so that it "
         "follows from the others"},
        /* What follows from a difference between the two is not told. */
        {2,
         "{\"train_batch_size\":\"auto\",\"train_micro_batch_size_per_gpu\":4,"
         "\"gradient_accumulation_steps\":2}",
         "{\"per_device_train_batch_size\":8}", "train_micro_batch_size_per_gpu",
         "4, but the training arguments say per_device_train_batch_size=8; write \"auto\", or "
         "change "
         "one of them"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const zds_config_context context = {.struct_size = sizeof context,
                                            .world_size = cases[i].world,
                                            .arguments_source = cases[i].arguments};
        zds_config *c = NULL;
        zds_problem p;
        zds_config_load(cases[i].text, &context, &c, NULL);
        cr_assert(c);
        cr_assert(zds_config_problem(c, 0, &p), "%s", cases[i].text);
        cr_expect_str_eq(p.path, cases[i].path);
        cr_expect_str_eq(p.message, cases[i].message);
        cr_expect_not(zds_config_problem(c, 1, &p), "%s", cases[i].text);
        zds_config_destroy(c);
    }
}

/* === rules === */

#define B "{\"train_batch_size\":1,"

Test(config_values, rules)
{
    expect_error(B "\"fp16\":{\"enabled\":1},\"bf16\":{\"enabled\":1}}", ZDS_CHECK_DEEPSPEED,
                 "bf16.enabled", "both");
    expect_error(B "\"gradient_allreduce_op\":\"Sum\",\"zero_optimization\":{\"stage\":3}}",
                 ZDS_CHECK_DEEPSPEED, "gradient_allreduce_op", "write mean");
    expect_error(B "\"bf16\":{\"bf16_optimizer_states\":true},\"zero_optimization\":{\"stage\":1}}",
                 ZDS_CHECK_DEEPSPEED, "bf16.bf16_optimizer_states", "needs");
    expect_error(B "\"zero_optimization\":{\"stage\":2,\"offload_optimizer\":{\"ratio\":0.5}}}",
                 ZDS_CHECK_DEEPSPEED, "zero_optimization.offload_optimizer.ratio", "stage 3");
    expect_error(B "\"fp16\":{\"enabled\":true,\"loss_scale_window\":0}}", ZDS_CHECK_DEEPSPEED,
                 "fp16.loss_scale_window", "greater than 0");
    expect_clean(B "\"fp16\":{\"enabled\":true,\"loss_scale\":128,\"loss_scale_window\":0}}");
    expect_error(B "\"prescale_gradients\":true,\"zero_optimization\":{\"stage\":2}}",
                 ZDS_CHECK_ZDS, "prescale_gradients", "reduce_scatter");
    expect_clean(B "\"prescale_gradients\":true,\"zero_optimization\":{\"stage\":2,"
                   "\"reduce_scatter\":false}}");
    expect_error(B "\"gradient_predivide_factor\":0}", ZDS_CHECK_ZDS, "gradient_predivide_factor",
                 "write a number > 0");
    /* What a terminal would obey is shown, not sent. */
    expect_error(B "\"a\\u001b[31m\\nb\\u009bc\":1}", ZDS_CHECK_ZDS, "a\\u001b[31m\\u000ab\\u009bc",
                 "unknown key");
    expect_error(B "\"gradient_predivide_factor\":2,\"zero_optimization\":{\"stage\":2}}",
                 ZDS_CHECK_ZDS, "gradient_predivide_factor", "must be 1");
    expect_error(B "\"data_types\":{\"param_dtype\":\"bf16\"}}", ZDS_CHECK_ZDS,
                 "data_types.param_dtype", "fp32");
    expect_error(B "\"bf16\":{\"enabled\":true},\"data_types\":{\"grad_accum_dtype\":\"fp32\"}}",
                 ZDS_CHECK_ZDS, "data_types.grad_accum_dtype", "stage 0");
    expect_error(B "\"optimizer\":{\"type\":\"AdamW\",\"params\":{\"max_grad_norm\":0}}}",
                 ZDS_CHECK_ZDS, "optimizer.params.max_grad_norm", "gradient_clipping");
    expect_error(B "\"optimizer\":{\"type\":\"AdamW\",\"params\":{\"lr\":\"auto\"}}}",
                 ZDS_CHECK_ZDS, "optimizer.params.lr", "training arguments");
    expect_error(B "\"scheduler\":{\"type\":\"WarmupLR\"}}", ZDS_CHECK_ZDS, "scheduler",
                 "no params");
    expect_error(B "\"zero_optimization\":{\"stage\":1,\"compute_grad_norm\":false}}",
                 ZDS_CHECK_ZDS, "zero_optimization.compute_grad_norm", "clipped");
    expect_error(B "\"zero_optimization\":{\"compute_grad_norm\":false}}", ZDS_CHECK_DEEPSPEED,
                 "zero_optimization.compute_grad_norm", "stage 1 or 2");
    expect_error(B "\"managed_gradient_accumulation\":false,\"zero_optimization\":{\"stage\":1,"
                   "\"overlap_comm\":true}}",
                 ZDS_CHECK_ZDS, "zero_optimization.overlap_comm", "stage 2");
}

Test(config_values, all_problems_at_once_in_order)
{
    zds_config *c = load("{\"train_batch_size\": 0,\n\"zero_optimization\": {\"stage\": 4, \"x\": "
                         "1},\n\"amp\": {}}",
                         1);
    static const char *const wants[] = {"train_batch_size", "zero_optimization.stage",
                                        "zero_optimization.x", "amp"};
    zds_problem p;
    for (size_t i = 0; i < 4; i++) {
        cr_assert(zds_config_problem(c, i, &p));
        cr_expect_str_eq(p.path, wants[i]);
    }
    cr_expect_not(zds_config_problem(c, 4, &p));
    zds_config_destroy(c);
}

/* === what an engine refuses === */

Test(config_values, engines_refuse_what_they_cannot_do)
{
    char found[512] = "";
    zds_config *c = load(B "\"zero_optimization\":{\"stage\":1,\"memory_efficient_linear\":false,"
                           "\"max_live_parameters\":7,\"legacy_stage1\":true},"
                           "\"wandb\":{\"enabled\":false,\"project\":\"x\"},"
                           "\"comet\":{\"enabled\":true},\"dump_state\":false,"
                           "\"memory_breakdown\":true,\"disable_allgather\":true,"
                           "\"fp16\":{\"enabled\":false,\"hysteresis\":5}}",
                         1);
    problems all = {0};
    config_require_implemented(c, &all);
    for (size_t i = 0; i < all.count; i++)
        strcat(strcat(found, all.list[i].shown.path),
               strstr(all.list[i].shown.message, "not implemented") ? "? " : "! ");
    problems_clear(&all);
    cr_expect(strstr(found, "zero_optimization.legacy_stage1!"), "%s", found);
    cr_expect(strstr(found, "comet.enabled!"), "%s", found);
    cr_expect_not(strstr(found, "wandb"), "%s", found);
    cr_expect_not(strstr(found, "max_live"), "%s", found);
    cr_expect_not(strstr(found, "linear"), "%s", found);
    cr_expect_not(strstr(found, "dump_state"), "%s", found);
    cr_expect_not(strstr(found, "allgather"), "%s", found);
    cr_expect_not(strstr(found, "hysteresis"), "%s", found);
    zds_config_destroy(c);
}

/* What a plugin says, without saying where. */
Test(config_values, the_key_that_a_message_is_about)
{
    static const struct {
        const char *message, *path;
    } cases[] = {{"min_coeff 2 is above max_coeff 1", "optimizer.params.max_coeff"},
                 {"rounds to nearest; remove \"stochastic_rounding\"", "zds.stochastic_rounding"},
                 {"remove bf16_optimizer_states", "optimizer.params"}, /* which nobody wrote */
                 {"is not enabled", "optimizer.params"},               /* a word, no key */
                 {"", "optimizer.params"}};
    zds_config *c = load(B "\"optimizer\":{\"type\":\"Lamb\",\"params\":{\"max_coeff\":1}},"
                           "\"bf16\":{\"enabled\":true},\"zds\":{\"stochastic_rounding\":true}}",
                         1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[64];
        config_path_in(c, "optimizer.params", cases[i].message, path, sizeof path);
        cr_expect_str_eq(path, cases[i].path, "%s: %s", cases[i].message, path);
    }
    zds_config_destroy(c);
}

#ifndef NDEBUG
/* A key that nobody has is the caller's mistake, which a test build does not let pass. */
Test(config_values, unknown_path_is_asserted, .signal = SIGABRT)
{
    zds_config *c = load("{}", 1);
    zds_config_bool(c, "zero_optimization.stag");
}
#endif

/* === sources === */

Test(config_values, base64_and_files_that_are_not)
{
    zds_config *c = NULL;
    /* {"train_batch_size": 4, "note?": ">>>"}: both letters in which URL-safe differs */
    cr_expect_eq(zds_config_load("eyJ0cmFpbl9iYXRjaF9zaXplIjogNH0=", NULL, &c, NULL), ZDS_OK);
    cr_expect_eq(zds_config_int(c, "train_batch_size"), 4);
    zds_config_destroy(c);
    zds_error error = ZDS_ERROR_INIT;
    cr_expect_eq(zds_config_load("/no/such/file.json", NULL, &c, &error), ZDS_ERR_NOT_FOUND);
    cr_expect(strstr(error.text, "/no/such/file.json"));
    cr_expect_null(c);
    zds_error_clear(&error);
}

/* === what comes out === */

Test(config_values, json_text)
{
    zds_config *c = load("{\"train_batch_size\": 4, \"optimizer\": {\"type\": \"Lamb\", "
                         "\"params\": {\"lr\": 1e-3}}, \"zero_optimization\": {\"stage\": 1}}",
                         1);
    expect_text(zds_config_node(c, "optimizer.params"), "{\"lr\":0.001}");
    cr_expect_null(zds_config_node(c, "scheduler"));
    cr_expect_null(zds_config_arguments(c));
    expect_text(zds_config_value(c, "optimizer.params.lr"), "0.001");
    expect_text(zds_config_value(c, "optimizer.type"), "\"Lamb\"");
    expect_text(zds_config_value(c, "zero_optimization.reduce_bucket_size"), "500000000");
    cr_expect_null(zds_config_value(c, "no.such.key"));
    cJSON *values = take_json(zds_config_effective(c));
    cr_expect_eq(cJSON_GetObjectItem(values, "zero_optimization_stage")->valuedouble, 1);
    cJSON_Delete(values);
    zds_config_destroy(c);
}

/* A place is one text, however often it is asked for. */
Test(config_values, places_do_not_pile_up)
{
    zds_config *c = load("{\"train_batch_size\": 4,\n\"optimizer\": {\"type\": \"SGD\"}}", 1);
    const char *root = zds_config_place(c, ""), *type = zds_config_place(c, "optimizer.type");
    cr_expect_str_eq(root, "<string>:1:1");
    cr_expect_str_eq(type, "<string>:2:23");
    for (int i = 0; i < 100000; i++) {
        char path[32];
        snprintf(path, sizeof path, "no.such.key.%d", i);
        cr_assert_eq(zds_config_place(c, path), root);
        cr_assert_eq(zds_config_place(c, "optimizer.type"), type);
    }
    zds_config_destroy(c);
}

/* === structs of other versions === */

/* zds_problem as of a header that is older, and one that is newer. */
Test(config_values, structs_of_other_sizes)
{
    zds_config *c = load("{\"train_batch_size\": 0}", 1);
    struct {
        zds_problem known;
        int64_t later, beyond;
    } newer;
    memset(&newer, 0x55, sizeof newer);
    cr_assert(zds_config_problem_sized(c, 0, &newer.known, sizeof newer - sizeof newer.beyond));
    cr_expect_eq(newer.known.struct_size, sizeof newer.known);
    cr_expect_str_eq(newer.known.path, "train_batch_size");
    cr_expect_eq(newer.later, 0);
    cr_expect_eq(newer.beyond, 0x5555555555555555);
    zds_problem older;
    memset(&older, 0x55, sizeof older);
    cr_assert(zds_config_problem_sized(c, 0, &older, offsetof(zds_problem, message)));
    cr_expect_eq(older.struct_size, offsetof(zds_problem, message));
    cr_expect_str_eq(older.path, "train_batch_size");
    cr_expect_eq((uintptr_t)older.message, 0x5555555555555555);
    zds_config_destroy(c);
}

static bool count_key(void *user, const zds_config_key *key)
{
    cr_assert_eq(key->struct_size, sizeof *key);
    ++*(size_t *)user;
    return true;
}

Test(config_values, keys_have_their_size)
{
    size_t count = 0;
    zds_config_keys(count_key, &count);
    cr_expect_eq(count, field_count());
}

/* === the list of problems === */

Test(config_values, problems_beyond_the_list_are_counted)
{
    zds_config *c = load("{\"train_batch_size\": 1}", 1);
    problems all = {0};
    for (int i = 0; i < PROBLEMS_MAX + 3; i++)
        config_note(c, &all, i ? ZDS_PROBLEM_WARNING : ZDS_PROBLEM_ERROR, "train_batch_size",
                    "a\x1b"
                    "b");
    cr_expect_eq(all.count, PROBLEMS_MAX);
    cr_expect_eq(problems_heard(&all), PROBLEMS_MAX + 3);
    char *text = problems_text(&all);
    cr_assert(text);
    cr_expect_eq(strncmp(text, "<string>:1:22: error: train_batch_size: a\\u001bb\n", 49), 0, "%s",
                 text);
    cr_expect(strstr(text, "\n<string>: error: 3 more problems\n"));
    free(text);
    problems_cut(&all, 1);
    cr_expect(problems_have_errors(&all, ZDS_CHECK_ZDS));
    cr_expect_not(problems_have_errors(&all, ZDS_CHECK_SYNTAX));
    problems_clear(&all);
    cr_expect_null(problems_text(&all));
    zds_config_destroy(c);
}
