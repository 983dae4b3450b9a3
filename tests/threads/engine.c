/* An engine's threads under ThreadSanitizer: every optimizer in the box takes a few steps, in fp32
 * and bf16, at each stage that it has, on several threads. */
#include <stdlib.h>

#include "../unit/small_model.h"

enum { STEPS = 3 };

static const struct {
    const char *name, *params;
    int stages; /* from 0 */
} optimizers[] = {
    {"AdamW", "{\"lr\": 0.01}", 3},
    {"Adam", "{}", 3},
    {"AdamW8bit", "{\"min_8bit_size\": 64}", 3},
    {"MuAdam", "{}", 3},
    {"Lamb", "{}", 3},
    {"Lion", "{}", 3},
    {"Muon", "{}", 3},
    {"Adafactor", "{}", 3},
    {"Adagrad", "{}", 3},
    {"Adadelta", "{}", 3},
    {"Adamax", "{}", 3},
    {"ASGD", "{}", 3},
    {"NAdam", "{}", 3},
    {"RAdam", "{}", 3},
    {"RMSprop", "{}", 3},
    {"Rprop", "{}", 3},
    {"SGD", "{\"momentum\": 0.9, \"dampening\": 0.5}", 3},
    {"OneBitAdam", "{\"freeze_step\": 1}", 2},
    {"OneBitLamb", "{\"freeze_step\": 1}", 2},
    {"ZeroOneAdam", "{\"var_freeze_step\": 1, \"local_step_scaler\": 1}", 1},
};

static void need(zds_status status, const char *json, const char *what, const char *text)
{
    if (status) {
        fprintf(stderr, "%s: %s: %s\n", json, what, text ? text : zds_status_name(status));
        exit(1);
    }
}

static void train(const char *json, int32_t threads)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = NULL;
    zds_engine *e = NULL;
    zds_engine_options o = {
        .struct_size = sizeof o, .threads = threads, .world_size = 1, .total_steps = 10};
    need(zds_config_load(json, NULL, &config, &error), json, "config", error.text);
    need(small_model(&model), json, "model", NULL);
    need(zds_engine_create(config, model, &o, &e, &error), json, "create", error.text);
    need(zds_set_values(e, small_values, NULL), json, "values", zds_engine_error(e));
    for (uint64_t micro = 0; micro < 2 * STEPS; micro++)
        need(small_micro(e, ZDS_BOUNDARY_AUTO, micro, NULL), json, "step", zds_engine_error(e));
    small_sum sum;
    need(small_hash(e, &sum), json, "read back", zds_engine_error(e));
    need(sum.finite ? ZDS_OK : ZDS_ERR_OVERFLOW, json, "result", "not finite");
    zds_engine_destroy(e);
    zds_model_destroy(model);
    zds_config_destroy(config);
}

int main(void)
{
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins", 1);
    small_width = 160; /* several tiles, and matrices for several threads */
    int runs = 0;
    for (size_t i = 0; i < sizeof optimizers / sizeof *optimizers; i++)
        for (int stage = 0; stage < optimizers[i].stages; stage++)
            for (int bf16 = 0; bf16 < 2; bf16++) {
                char json[512];
                snprintf(
                    json, sizeof json,
                    "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_accumulation_steps\": 2,"
                    "\"gradient_clipping\": 1, \"bf16\": {\"enabled\": %s},"
                    "\"zero_optimization\": {\"stage\": %d},"
                    "\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": "
                    "4}},"
                    "\"optimizer\": {\"type\": \"%s\", \"params\": %s}}",
                    bf16 ? "true" : "false", stage, optimizers[i].name, optimizers[i].params);
                train(json, 2 + runs % 3);
                runs++;
            }
    train("{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, "
          "\"optimizer\": {\"type\": \"AdamW\"}, \"zds\": {\"overlap_step\": true}}",
          3);
    printf("%d runs\n", runs + 1);
    return 0;
}
