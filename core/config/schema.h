/* The forms of JSON Schema (2020-12) that keys and options of plugins share. Without memory, parts
 * are missing. */
#ifndef CORE_CONFIG_SCHEMA_H
#define CORE_CONFIG_SCHEMA_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "zds/status.h"

cJSON *schema_typed(const char *type);
cJSON *schema_constant(const char *word);
/* The words of a '|' separated list in any case: "^([wW][aA][rR][nN]|...)$". */
cJSON *schema_any_case(const char *choices);
/* Adds the words of a '|' separated list to the forms that a value may have. */
void schema_add_choices(cJSON *any, const char *choices, bool no_case);
/* What has one of these forms; all if there is none. Takes the array over. */
cJSON *schema_one_of(cJSON *any);

/* Completes the sections of optimizer and scheduler: names, and the options of each. `path`: as of
 * registry_create. */
zds_status schema_add_plugins(cJSON *schema, const char *path, zds_error *error);

#endif
