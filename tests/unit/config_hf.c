/* HfDeepSpeedConfig and HfTrainerDeepSpeedConfig as a C API. Expected values are what the Python
 * classes of accelerate 1.15 and transformers 5.23 do. */
#include <string.h>

#include "json.h"
#include "zds/config.h"

static zds_hf_config *make(const char *text)
{
    zds_hf_config *hf = NULL;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(zds_hf_config_create(text, &hf, &error), ZDS_OK, "%s", error.text);
    return hf;
}

static double number(const zds_hf_config *hf, const char *path)
{
    return take_number(zds_hf_config_value(hf, path));
}

Test(config_hf, looking)
{
    zds_hf_config *hf = make("{\"zero_optimization\":{\"stage\":3,\"offload_param\":{\"device\":"
                             "\"cpu\"}},\"a\":{\"t\":1,\"f\":\"\",\"n\":null,\"x\":\"auto\"}}");
    const char *key;
    expect_text(zds_hf_config_find_node(hf, "a.t", &key),
                "{\"t\":1,\"f\":\"\",\"n\":null,\"x\":\"auto\"}");
    cr_expect_str_eq(key, "t");
    cr_expect_null(zds_hf_config_find_node(hf, "b.t", &key));
    cr_expect(zds_hf_config_is_true(hf, "a.t"));
    cr_expect(zds_hf_config_is_false(hf, "a.f"));
    cr_expect_not(zds_hf_config_is_true(hf, "a.n"));
    cr_expect_not(zds_hf_config_is_false(hf, "a.n"));
    cr_expect_not(zds_hf_config_is_false(hf, "a.missing"));
    cr_expect(zds_hf_config_is_auto(hf, "a.x"));
    cr_expect(zds_hf_config_is_zero3(hf));
    cr_expect_not(zds_hf_config_is_zero2(hf));
    cr_expect(zds_hf_config_is_offload(hf));
    cr_expect_null(zds_hf_config_dtype(hf));
    cr_expect_eq(zds_hf_config_delete(hf, "a", true, NULL), ZDS_OK);
    cr_expect_eq(zds_hf_config_delete(hf, "a", false, NULL), ZDS_OK);
    cr_expect_eq(zds_hf_config_delete(hf, "a", true, NULL), ZDS_ERR_NOT_FOUND);
    cr_expect_null(zds_hf_config_value(hf, "a.t"));
    expect_text(zds_hf_config_json(hf),
                "{\"zero_optimization\":{\"stage\":3,\"offload_param\":{\"device\":\"cpu\"}}}");
    zds_hf_config_destroy(hf);
    hf = make("{\"zero_optimization\":{\"stage\":1,\"offload_optimizer\":{\"device\":\"cpu\"}}}");
    cr_expect(zds_hf_config_is_zero1(hf));
    cr_expect_not(zds_hf_config_is_offload(hf));
    zds_hf_config_destroy(hf);
}

Test(config_hf, fill)
{
    zds_hf_config *hf = make("{\"a\":\"auto\",\"b\":1,\"c\":true,\"s\":{\"d\":[1,2]}}");
    zds_hf_config_fill_match(hf, "a", "2", "arg_a", true);
    zds_hf_config_fill_match(hf, "b", "1", "arg_b", true);
    zds_hf_config_fill_match(hf, "c", "1", "arg_c", true); /* True == 1 */
    zds_hf_config_fill_match(hf, "missing.d", "1", "arg_d", true);
    zds_hf_config_fill_match(hf, "s.d", "[1, 2.0]", "arg_s", true);
    zds_hf_config_fill_only(hf, "b", "2");
    zds_hf_mismatch m;
    cr_expect_not(zds_hf_config_mismatch(hf, 0, &m));
    cr_expect_eq(zds_hf_config_fill_match(hf, "b", "2 3", "arg_b", true), ZDS_ERR_FORMAT);
    cr_expect_not(zds_hf_config_mismatch(hf, 0, &m));
    cr_expect_eq(zds_hf_config_fill_match(hf, "b", "[2, \"x\"]", "arg_b", true), ZDS_OK);
    cr_assert(zds_hf_config_mismatch(hf, 0, &m));
    cr_expect_str_eq(m.ds_key, "b");
    cr_expect_str_eq(m.hf_key, "arg_b");
    cr_expect_str_eq(m.ds_value, "1");
    cr_expect_str_eq(m.hf_value, "[2,\"x\"]");
    cr_expect_eq(number(hf, "a"), 2);
    zds_hf_config_destroy(hf);
}

static const char *const all_auto =
    "{\"train_batch_size\":\"auto\",\"train_micro_batch_size_per_gpu\":\"auto\","
    "\"gradient_accumulation_steps\":\"auto\",\"gradient_clipping\":\"auto\","
    "\"bf16\":{\"enabled\":\"auto\"},\"optimizer\":{\"type\":\"AdamW\",\"params\":{\"lr\":\"auto\","
    "\"betas\":\"auto\",\"eps\":\"auto\",\"weight_decay\":\"auto\"}},\"scheduler\":{\"type\":"
    "\"WarmupDecayLR\",\"params\":{\"warmup_min_lr\":\"auto\",\"warmup_max_lr\":\"auto\","
    "\"warmup_num_steps\":\"auto\",\"total_num_steps\":\"auto\"}},\"zero_optimization\":{\"stage\":"
    "3,"
    "\"reduce_bucket_size\":\"auto\",\"stage3_prefetch_bucket_size\":\"auto\","
    "\"stage3_param_persistence_threshold\":\"auto\"}}";

Test(config_hf, process_and_finalize)
{
    zds_hf_config *hf = make(all_auto);
    static const char arguments[] = "{\"per_device_train_batch_size\":4,\"learning_rate\":1e-4,"
                                    "\"bf16\":true,\"warmup_steps\":0.1,\"adam_beta2\":0.95}";
    zds_config_context context = {.struct_size = sizeof context,
                                  .world_size = 2,
                                  .hidden_size = 100,
                                  .num_training_steps = 205,
                                  .arguments_source = arguments};
    cr_expect_eq(zds_hf_config_process(hf, &context, NULL), ZDS_OK);
    cr_expect_str_eq(zds_hf_config_dtype(hf), "bfloat16");
    cr_expect_eq(zds_hf_config_finalize(hf, &context, NULL), ZDS_OK);
    cr_expect_eq(number(hf, "train_batch_size"), 8);
    cr_expect_eq(number(hf, "gradient_clipping"), 1.0);
    cr_expect_eq(number(hf, "optimizer.params.lr"), 1e-4);
    cr_expect_eq(number(hf, "optimizer.params.eps"), 1e-8);
    expect_text(zds_hf_config_value(hf, "optimizer.params.betas"), "[0.9,0.95]");
    cr_expect_eq(number(hf, "scheduler.params.warmup_min_lr"), 0);
    cr_expect_eq(number(hf, "scheduler.params.warmup_max_lr"), 1e-4);
    cr_expect_eq(number(hf, "scheduler.params.warmup_num_steps"), 21); /* ceil(20.5) */
    cr_expect_eq(number(hf, "scheduler.params.total_num_steps"), 205);
    cr_expect_eq(number(hf, "zero_optimization.reduce_bucket_size"), 10000);
    cr_expect_eq(number(hf, "zero_optimization.stage3_prefetch_bucket_size"), 9000);
    cr_expect_eq(number(hf, "zero_optimization.stage3_param_persistence_threshold"), 1000);
    zds_hf_config_destroy(hf);
}

Test(config_hf, mismatches_only_where_arguments_were_given)
{
    zds_hf_config *hf = make("{\"train_micro_batch_size_per_gpu\":2,\"train_batch_size\":\"auto\","
                             "\"gradient_clipping\":0.5,\"optimizer\":{\"type\":\"AdamW\","
                             "\"params\":{\"lr\":1e-3}}}");
    static const char arguments[] = "{\"learning_rate\":1e-4}";
    zds_config_context context = {
        .struct_size = sizeof context, .world_size = 2, .arguments_source = arguments};
    zds_error error = ZDS_ERROR_INIT;
    zds_hf_mismatch m;
    cr_expect_eq(zds_hf_config_process(hf, &context, NULL), ZDS_OK);
    cr_expect_eq(zds_hf_config_finalize(hf, &context, &error), ZDS_ERR_MISMATCH);
    cr_expect(strstr(error.text, "learning_rate"), "%s", error.text);
    cr_assert(zds_hf_config_mismatch(hf, 0, &m));
    cr_expect_str_eq(m.ds_key, "optimizer.params.lr");
    cr_expect_not(zds_hf_config_mismatch(hf, 1, &m));
    cr_expect_eq(number(hf, "train_batch_size"), 4); /* the file's micro batch, 2 ranks */
    zds_error_clear(&error);
    zds_hf_config_destroy(hf);
}

Test(config_hf, an_auto_that_nothing_fills)
{
    zds_hf_config *hf = make(all_auto);
    static const char arguments[] = "{}";
    zds_config_context context = {.struct_size = sizeof context, .arguments_source = arguments};
    zds_error error = ZDS_ERROR_INIT;
    cr_expect_eq(zds_hf_config_process(hf, &context, NULL), ZDS_OK);
    cr_expect_eq(zds_hf_config_finalize(hf, &context, &error), ZDS_ERR_CONFIG);
    cr_expect(strstr(error.text, "hidden size") && strstr(error.text, "training steps"), "%s",
              error.text);
    zds_error_clear(&error);
    zds_hf_config_destroy(hf);
}

/* transformers does not get to the schedule without the hidden size that another key needs: an
 * error, no mismatch; told with it. */
Test(config_hf, no_mismatch_after_a_missing_hidden_size)
{
    zds_hf_config *hf = make("{\"zero_optimization\":{\"reduce_bucket_size\":\"auto\"},"
                             "\"gradient_clipping\":0.5,"
                             "\"scheduler\":{\"params\":{\"warmup_num_steps\":500}}}");
    static const char arguments[] = "{\"warmup_steps\":7,\"max_grad_norm\":1.0}";
    zds_config_context context = {.struct_size = sizeof context, .arguments_source = arguments};
    zds_error error = ZDS_ERROR_INIT;
    zds_hf_mismatch m;
    cr_expect_eq(zds_hf_config_process(hf, &context, NULL), ZDS_OK);
    cr_expect_eq(zds_hf_config_finalize(hf, &context, &error), ZDS_ERR_MISMATCH);
    cr_assert(zds_hf_config_mismatch(hf, 0, &m));
    cr_expect_str_eq(m.ds_key, "gradient_clipping");
    cr_expect_not(zds_hf_config_mismatch(hf, 1, &m));
    cr_expect(strstr(error.text, "hidden size") && strstr(error.text, "warmup_num_steps: 500") &&
                  strstr(error.text, "warmup_steps=7"),
              "%s", error.text);
    zds_error_clear(&error);
    zds_hf_config_destroy(hf);
}

/* DeepSpeedPlugin of accelerate: --bf16 turns the section on, leftovers get its defaults. */
Test(config_hf, accelerate)
{
    static const char arguments[] = "{\"bf16\":true,\"gradient_accumulation_steps\":3}";
    zds_config_context context = {.struct_size = sizeof context,
                                  .hidden_size = 10,
                                  .arguments_source = arguments,
                                  .accelerate = true};
    zds_config *c = NULL;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = zds_config_load(
        "{\"train_micro_batch_size_per_gpu\":1,\"zero_optimization\":{\"stage\":\"auto\","
        "\"offload_optimizer\":{\"device\":\"auto\",\"nvme_path\":\"auto\"},"
        "\"stage3_prefetch_bucket_size\":\"auto\","
        "\"stage3_gather_16bit_weights_on_model_save\":\"auto\"}}",
        &context, &c, &error);
    cr_assert_eq(status, ZDS_OK, "%s", error.text);
    cr_expect(zds_config_bool(c, "bf16.enabled"));
    cr_expect_eq(zds_config_int(c, "zero_optimization.stage"), 2);
    cr_expect_eq(zds_config_int(c, "zero_optimization.stage3_prefetch_bucket_size"), 90);
    cr_expect_eq(zds_config_int(c, "train_batch_size"), 3);
    cr_expect_str_eq(zds_config_string(c, "zero_optimization.offload_optimizer.device"), "none");
    cr_expect(zds_hf_config_is_zero2(zds_config_hf(c)));
    zds_config_destroy(c);
    context.accelerate = false;
    status = zds_config_load("{\"train_batch_size\":1,\"zero_optimization\":{\"stage\":\"auto\"}}",
                             &context, &c, NULL);
    cr_expect_eq(status, ZDS_ERR_CONFIG);
    cr_expect_eq(zds_config_int(c, "zero_optimization.stage"), 0);
    zds_config_destroy(c);
}
