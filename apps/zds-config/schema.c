/* zds-config schema: the keys as JSON Schema, so that an editor completes and checks a ds_config.
 */
#include <stdio.h>
#include <stdlib.h>

#include "command.h"
#include "common/output.h"

int command_schema(int argc, char **argv)
{
    const args_program program = {
        .usage = "schema",
        .doc =
            "Prints all keys, and the options of all optimizers and schedules in the install and "
            "ZDS_PLUGIN_PATH,\nas JSON Schema (2020-12), with titles, defaults and one line of "
            "documentation each. Keep it in a file\nand name that in a ds_config, "
            "\"$schema\": \"./ds_config.schema.json\": editors complete and check then."};
    int code = args_parse(&program, argc, argv, NULL);
    if (code != ARGS_GO)
        return code;
    char *schema = NULL;
    zds_error error = ZDS_ERROR_INIT;
    if (zds_config_schema(NULL, &schema, &error) == ZDS_OK) {
        puts(schema);
        code = output_end();
    } else {
        code = output_error("%s", error.text ? error.text : "out of memory");
    }
    free(schema);
    zds_error_clear(&error);
    return code;
}
