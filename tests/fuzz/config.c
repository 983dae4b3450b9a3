/* libFuzzer: any bytes as a config, read, resolved and made effective; then every public way to
 * look at it. The first byte chooses what the run knows. */
#include <cjson/cJSON.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"
#include "zds/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ignore(void *user, const char *path, const char *message)
{
    *(size_t *)user += strlen(path) + strlen(message);
}

static void look(const zds_config *config)
{
    size_t seen = 0;
    zds_problem p;
    for (size_t i = 0; zds_config_problem(config, i, &p); i++)
        seen += strlen(p.path) + strlen(p.message) + strlen(zds_config_place(config, p.path));
    char *text = zds_config_problems_text(config);
    cJSON *effective = zds_config_effective(config);
    char *printed = effective ? cJSON_PrintUnformatted(effective) : NULL;
    config_require_implemented(config, ignore, &seen);
    for (size_t i = 0; i < field_count(); i += 29) {
        const char *path = field_at(i)->path;
        seen += zds_config_is_set(config, path);
        cJSON_Delete(zds_config_value(config, path));
    }
    free(text);
    cJSON_free(printed);
    cJSON_Delete(effective);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    cJSON *arguments =
        data[0] & 1 ? cJSON_Parse("{\"per_device_train_batch_size\": 4, \"learning_rate\": 1e-4, "
                                  "\"bf16\": true, \"warmup_steps\": 0.1}")
                    : NULL;
    zds_config_context context = {.struct_size = sizeof context,
                                  .world_size = data[0] & 2 ? 4 : 0,
                                  .hidden_size = data[0] & 4 ? 768 : 0,
                                  .num_training_steps = data[0] & 8 ? 100 : 0,
                                  .arguments = arguments,
                                  .auto_find_batch_size = data[0] & 16,
                                  .accelerate = data[0] & 32};
    source *src = NULL;
    zds_error error = ZDS_ERROR_INIT;
    if (source_parse("fuzz", (const char *)data + 1, size - 1, &src, &error) == ZDS_OK) {
        zds_config *config = NULL;
        zds_config_from_json(source_tree(src), &context, &config, &error);
        if (config)
            look(config);
        zds_config_destroy(config);
    }
    source_destroy(src);

    char *text = malloc(size); /* the same as text or base64, which has places */
    zds_config *config = NULL;
    if (text) {
        memcpy(text, data + 1, size - 1);
        text[size - 1] = '\0';
        if (text[strspn(text, " \t\r\n")] == '{')
            zds_config_load(text, &context, &config, &error);
        if (config)
            look(config);
        zds_config_destroy(config);
    }
    free(text);
    cJSON_Delete(arguments);
    zds_error_clear(&error);
    return 0;
}
