/* libFuzzer: any bytes as a config, read, resolved and made effective; then every public way to
 * look at it. The first byte chooses what the run knows. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"
#include "zds/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile size_t looked; /* so that looking is not left out */

static void look(const zds_config *config)
{
    size_t seen = 0;
    zds_problem p;
    for (size_t i = 0; zds_config_problem(config, i, &p); i++)
        seen += strlen(p.path) + strlen(p.message) + strlen(zds_config_place(config, p.path));
    char *text = zds_config_problems_text(config);
    problems all = {0};
    config_require_implemented(config, &all);
    problems_clear(&all);
    for (size_t i = 0; i < field_count(); i += 29) {
        const char *path = field_at(i)->path;
        seen += zds_config_is_set(config, path);
        free(zds_config_value(config, path));
    }
    looked = seen;
    free(text);
    free(zds_config_effective(config));
    free(zds_config_node(config, ""));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    static const char arguments[] = "{\"per_device_train_batch_size\": 4, \"learning_rate\": 1e-4, "
                                    "\"bf16\": true, \"warmup_steps\": 0.1}";
    zds_config_context context = {.struct_size = sizeof context,
                                  .world_size = data[0] & 2 ? 4 : 0,
                                  .hidden_size = data[0] & 4 ? 768 : 0,
                                  .num_training_steps = data[0] & 8 ? 100 : 0,
                                  .arguments_source = data[0] & 1 ? arguments : NULL,
                                  .auto_find_batch_size = data[0] & 16,
                                  .accelerate = data[0] & 32};
    source *src = NULL;
    zds_config *config = NULL;
    zds_error error = ZDS_ERROR_INIT;
    if (source_parse("fuzz", (const char *)data + 1, size - 1, &src, &error) == ZDS_OK)
        config_from_source(src, &context, &config, &error);
    if (config)
        look(config);
    zds_config_destroy(config);
    zds_error_clear(&error);
    return 0;
}
