/* What a run that does not fit is told, against the bytes a parameter of ZeRO's formulas. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"

enum { LAYERS = 48, WIDTH = 4096 };
static const double psi = (double)LAYERS * WIDTH * WIDTH;

static zds_model *make_model(void)
{
    zds_model *model = zds_model_create();
    const int64_t square[] = {WIDTH, WIDTH};
    for (uint32_t i = 0; i < LAYERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "layer%u", i);
        const zds_param_desc desc = {
            .struct_size = sizeof desc, .name = name, .shape = square, .ndim = 2};
        cr_assert(!zds_model_add_module(model, name, NULL) &&
                  !zds_model_add_param(model, i, &desc, NULL));
    }
    return model;
}

/* `said`: a part of the text; NULL: there is room. `left` in bytes a parameter. */
static void expect(int stage, int ranks, double left, const char *said)
{
    char json[100];
    zds_config *config = NULL;
    zds_error error = ZDS_ERROR_INIT;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = ranks};
    const zds_engine_options options = {.struct_size = sizeof options,
                                        .threads = 1,
                                        .world_size = ranks,
                                        .local_world_size = ranks,
                                        .optimizer = "AdamW"};
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins", 1);
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d}}",
             stage);
    cr_assert_eq(zds_config_load(json, &context, &config, &error), ZDS_OK, "%s", error.text);
    zds_model *model = make_model();
    zds_engine *e = engine_empty(config, &options);
    cr_assert_not_null(e);
    e->planned = true;
    cr_assert_eq(engine_build(e, model, &options, &error), ZDS_OK, "%s", error.text);
    char *text = room_text(e, model, &options, left * psi);
    if (said)
        cr_expect(text && strstr(text, said), "stage %d, %d ranks, %g: no \"%s\" in %s", stage,
                  ranks, left, said, text ? text : "nothing");
    else
        cr_expect_null(text, "%s", text);
    free(text);
    zds_engine_destroy(e);
    zds_model_destroy(model);
    zds_config_destroy(config);
}

/* fp32: parameter, gradient and two states of 4 bytes each; ranks share parameters. */
Test(room, names_the_nearest_settings_that_fit)
{
    expect(0, 1, 16.5, NULL);
    expect(0, 1, 9, "stage 3 with offload_optimizer.device nvme takes");
    expect(0, 1, 5, "stage3_max_live_parameters 1e8 takes");
    expect(0, 1, 0.01, "use more machines");
    expect(0, 4, 65, NULL);
    expect(0, 4, 40, "zero_optimization.stage 1 takes 21."); /* 28 */
    expect(1, 4, 20, "zero_optimization.stage 2 takes 12."); /* 16 */
    expect(2, 4, 13, "offload_optimizer.device nvme takes");
}
