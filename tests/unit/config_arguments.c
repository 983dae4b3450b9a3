/* The training arguments beside a ds_config: every name of TrainingArguments (transformers 5.23)
 * and no other, types, ranges, places, and a warm-up that is a share of an unknown number of steps.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "zds/config.h"

static const char *const every_auto =
    "{\"train_micro_batch_size_per_gpu\":\"auto\",\"gradient_clipping\":\"auto\","
    "\"optimizer\":{\"type\":\"AdamW\",\"params\":{\"lr\":\"auto\",\"betas\":\"auto\"}},"
    "\"scheduler\":{\"type\":\"WarmupLR\",\"params\":{\"warmup_num_steps\":\"auto\"}}}";

static zds_config *load(const char *config, const char *arguments, int64_t steps)
{
    zds_config *c = NULL;
    zds_error error = ZDS_ERROR_INIT;
    const zds_config_context context = {.struct_size = sizeof context,
                                        .world_size = 1,
                                        .num_training_steps = steps,
                                        .arguments_source = arguments};
    zds_config_load(config, &context, &c, &error);
    cr_assert(c, "%s: %s", arguments, error.text);
    zds_error_clear(&error);
    return c;
}

static const zds_problem *find(const zds_config *c, const char *path, const char *text)
{
    static zds_problem p;
    for (size_t i = 0; zds_config_problem(c, i, &p); i++)
        if (p.severity == ZDS_PROBLEM_ERROR && strcmp(p.path, path) == 0 && strstr(p.message, text))
            return &p;
    return NULL;
}

static size_t count(const zds_config *c)
{
    zds_problem p;
    size_t n = 0;
    while (zds_config_problem(c, n, &p))
        n++;
    return n;
}

static void expect_no_errors(const zds_config *c)
{
    zds_problem p;
    for (size_t i = 0; zds_config_problem(c, i, &p); i++)
        cr_expect_neq(p.severity, ZDS_PROBLEM_ERROR, "%s: %s", p.path, p.message);
}

Test(config_arguments, all_that_is_wrong_with_its_place)
{
    static const struct {
        int32_t line, column;
        const char *path, *message;
    } wants[] = {{1, 2, "learning_rat", "did you mean learning_rate?"},
                 {2, 19, "learning_rate", "\"1e-4\" is not a number"},
                 {3, 33, "per_device_train_batch_size", "2.5 is not an integer from 1 to"},
                 {4, 16, "adam_beta1", "1 is out of range; write a number >= 0 and < 1"},
                 {5, 10, "bf16", "\"yes\" is not true or false"},
                 {6, 18, "warmup_steps", "-1 is out of range; write a number >= 0"},
                 {7, 18, "warmup_ratio", "2 is out of range; write a number from 0 to 1"},
                 {8, 19, "max_grad_norm", "true is not a number"},
                 {9, 11, "optim", "7 is not a string"},
                 {10, 25, "lr_scheduler_kwargs", "\"x\" is not an object"},
                 {11, 19, "adam_beta2", "[0.9] is not a number"},
                 {12, 1, "weight_decay", "is there twice, first at 12:1"},
                 {13, 1, "frobnicate", "is no field of TrainingArguments; delete it"}};
    zds_config *c = load(every_auto,
                         "{\"learning_rat\": 1,\n \"learning_rate\": \"1e-4\",\n "
                         "\"per_device_train_batch_size\": 2.5,\n \"adam_beta1\": 1,\n "
                         "\"bf16\": \"yes\",\n \"warmup_steps\": -1,\n \"warmup_ratio\": 2,\n "
                         "\"max_grad_norm\": true,\n \"optim\": 7,\n "
                         "\"lr_scheduler_kwargs\": \"x\",\n    \"adam_beta2\": [0.9],\n"
                         "\"weight_decay\": 1, \"weight_decay\": 2,\n\"frobnicate\": 1}",
                         0);
    zds_problem p;
    for (size_t i = 0; i < sizeof wants / sizeof *wants; i++) {
        bool twice = i == 11; /* the second of its line */
        const zds_problem *found = find(c, wants[i].path, twice ? "twice" : wants[i].message);
        cr_assert(found, "%s: %s", wants[i].path, wants[i].message);
        cr_expect_str_eq(found->file, "<arguments>");
        cr_expect_eq(found->check, ZDS_CHECK_SYNTAX);
        cr_expect_eq(found->line, wants[i].line, "%s: line %d", found->path, found->line);
        if (!twice)
            cr_expect_eq(found->column, wants[i].column, "%s: %d", found->path, found->column);
    }
    cr_assert(zds_config_problem(c, 0, &p));
    cr_expect_str_eq(p.path, "learning_rat", "in the order of the file, before the config's own");
    cr_expect_eq(count(c), sizeof wants / sizeof *wants, "and nothing at what they would fill");
    zds_config_destroy(c);
}

/* What is wrong counts as not given: it fills with the default, and never mismatches. */
Test(config_arguments, what_is_wrong_is_not_used)
{
    zds_config *c =
        load("{\"train_batch_size\":4,\"optimizer\":{\"type\":\"AdamW\",\"params\":"
             "{\"lr\":1e-3,\"betas\":\"auto\"}}}",
             "{\"learning_rate\": \"1e-4\", \"adam_beta1\": 7, \"adam_beta2\": 0.5}", 0);
    zds_hf_mismatch m;
    cr_expect_not(zds_hf_config_mismatch(zds_config_hf(c), 0, &m));
    expect_text(zds_config_node(c, "optimizer.params.betas"), "[0.9,0.5]");
    expect_text(zds_config_arguments(c), "{\"adam_beta2\":0.5}");
    zds_config_destroy(c);
}

/* TrainingArguments().to_dict() of transformers 5.23, and what a file may hold for the same. */
Test(config_arguments, fields_that_do_not_matter_pass)
{
    FILE *in = fopen(TEST_DATA "/config/training_arguments.json", "rb");
    cr_assert(in);
    char text[16384];
    size_t length = fread(text, 1, sizeof text - 1, in);
    fclose(in);
    text[length] = '\0';
    cJSON *all = cJSON_Parse(text);
    cr_assert_gt(cJSON_GetArraySize(all), 100);
    cJSON_Delete(all);
    zds_config *c = load(every_auto, text, 100);
    expect_no_errors(c);
    zds_config_destroy(c);
    c = load(every_auto,
             "{// comments, as in the config\n\"fp16\": 0, \"bf16\": 1, \"learning_rate\": null, "
             "\"lr_scheduler_kwargs\": \"{\\\"num_cycles\\\": 2}\", \"warmup_ratio\": 0.5, "
             "\"per_device_train_batch_size\": 4.0}",
             10);
    expect_no_errors(c);
    cJSON *arguments = take_json(zds_config_arguments(c));
    const cJSON *kwargs = cJSON_GetObjectItemCaseSensitive(arguments, "lr_scheduler_kwargs");
    cr_assert(cJSON_IsObject(kwargs));
    cr_expect_eq(cJSON_GetObjectItemCaseSensitive(kwargs, "num_cycles")->valuedouble, 2);
    cJSON_Delete(arguments);
    cr_expect_eq(take_number(zds_config_node(c, "scheduler.params.warmup_num_steps")), 5);
    cr_expect_eq(zds_config_int(c, "train_micro_batch_size_per_gpu"), 4);
    zds_config_destroy(c);
}

Test(config_arguments, sources_that_are_none)
{
    static const struct {
        const char *source, *says;
        zds_status status;
    } cases[] = {
        {"{\"bf16\": true", "<arguments>:1:14: error:", ZDS_ERR_FORMAT},
        {"{\"bf16\": true} x", "<arguments>:1:16: error: something follows", ZDS_ERR_FORMAT},
        {"/no/such/args.json", "/no/such/args.json", ZDS_ERR_NOT_FOUND},
        {TEST_DATA "/schedule.json", "schedule.json:1:1: error: ", ZDS_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zds_config *c = NULL;
        zds_error error = ZDS_ERROR_INIT;
        zds_config_context context = {.struct_size = sizeof context,
                                      .arguments_source = cases[i].source};
        cr_expect_eq(zds_config_load("{\"train_batch_size\":1}", &context, &c, &error),
                     cases[i].status, "%s", cases[i].source);
        cr_expect_null(c);
        cr_expect(error.text && strstr(error.text, cases[i].says), "%s", error.text);
        zds_error_clear(&error);
    }
}

/* Filled step by step, the same rules hold. */
Test(config_arguments, of_a_config_that_is_filled_step_by_step)
{
    zds_config_context context = {.struct_size = sizeof context,
                                  .arguments_source =
                                      "{\"learning_rate\": -1, \"warmup_step\": 3}"};
    zds_hf_config *hf = NULL;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(zds_hf_config_create(every_auto, &hf, NULL), ZDS_OK);
    cr_expect_eq(zds_hf_config_process(hf, &context, &error), ZDS_ERR_CONFIG);
    cr_expect(error.text && strstr(error.text, "learning_rate: -1 is out of range") &&
                  strstr(error.text, "did you mean warmup_steps?"),
              "%s", error.text);
    static const struct {
        const char *source, *says;
        zds_status status;
    } cases[] = {{NULL, "no arguments", ZDS_ERR_INVALID},
                 {"{\"bf16\": true", "<arguments>:1:14: error:", ZDS_ERR_FORMAT},
                 {TEST_DATA "/schedule.json", "schedule.json:1:1: error: ", ZDS_ERR_FORMAT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        context.arguments_source = cases[i].source;
        cr_expect_eq(zds_hf_config_finalize(hf, &context, &error), cases[i].status);
        cr_expect(error.text && strstr(error.text, cases[i].says), "%s", error.text);
    }
    zds_error_clear(&error);
    zds_hf_config_destroy(hf);
}

/* get_warmup_steps: int(w) from 1 on, else ceil(steps * w). A share of nothing known is no number.
 */
Test(config_arguments, a_share_of_an_unknown_number_of_steps)
{
    static const char *const key = "scheduler.params.warmup_num_steps";
    static const struct {
        const char *arguments;
        int64_t steps;
        double wants; /* 0: stays "auto", with an error */
    } cases[] = {{"{\"warmup_steps\": 0.1}", 0, 0},
                 {"{\"warmup_ratio\": 0.1}", 0, 0},
                 {"{\"warmup_ratio\": 1}", 0, 0},
                 {"{\"warmup_steps\": 0.1}", 205, 21},
                 {"{\"warmup_ratio\": 1}", 50, 50},
                 {"{\"warmup_steps\": 0.1, \"max_steps\": 42}", 0, 5},
                 {"{\"warmup_steps\": 0.1, \"max_steps\": -1}", 0, 0},
                 {"{\"warmup_steps\": 3, \"warmup_ratio\": 0.5}", 0, 3},
                 {"{}", 0, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zds_config *c = load(every_auto, cases[i].arguments, cases[i].steps);
        if (cases[i].wants > 0)
            cr_expect_eq(take_number(zds_config_node(c, key)), cases[i].wants, "%s",
                         cases[i].arguments);
        else
            cr_expect(find(c, key, "a share of the training steps (warmup_"), "%s",
                      cases[i].arguments);
        zds_config_destroy(c);
    }
}

Test(config_arguments, auto_find_batch_size)
{
    zds_hf_mismatch m;
    zds_config *c = load("{\"train_micro_batch_size_per_gpu\":2}",
                         "{\"per_device_train_batch_size\": 4, \"auto_find_batch_size\": true}", 0);
    cr_expect_not(zds_hf_config_mismatch(zds_config_hf(c), 0, &m));
    zds_config_destroy(c);
}
