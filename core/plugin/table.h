/* A plugin's table of options as such: whether it makes sense, and what it says. */
#ifndef CORE_PLUGIN_TABLE_H
#define CORE_PLUGIN_TABLE_H

#include "zds/plugin.h"

struct cJSON;

/* Row i, whatever the stride. */
static inline const zds_option *table_row(const zds_plugin *plugin, size_t i)
{
    return (const zds_option *)(const void *)((const char *)plugin->options +
                                              i * plugin->option_stride);
}

/* "float", "enum", ...; NULL for an unknown type. */
const char *table_type_name(int32_t type);
/* Text of one line without control characters, which programs print as it is; or NULL. */
bool table_is_line(const char *text);
/* What is wrong with the table, as a fault; NULL if nothing is. */
char *table_fault(const zds_plugin *plugin);

/* Where the values of an options struct go, and who keeps what they point to. */
typedef struct option_store option_store;
/* Reads `value` into the option's place in `store`, or only checks it if `store` is NULL. Returns
 * what is wrong with it as a fault, NULL if nothing is. */
char *option_read(const zds_option *option, const struct cJSON *value, option_store *store);

#endif
