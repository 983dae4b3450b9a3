/* zds-config schema: the keys as JSON Schema, so that an editor completes and checks a ds_config.
 */
#include "command.h"
#include "common/output.h"

int command_schema(int argc, char **argv)
{
    const args_program program = {
        .usage = "schema",
        .doc = "Prints all keys as JSON Schema (2020-12), with titles, defaults and one line of "
               "documentation each."};
    int code = args_parse(&program, argc, argv, NULL);
    return code == ARGS_GO ? output_json(zds_config_schema()) : code;
}
