/* Trees of JSON that are whole or not there: cJSON leaves out what it has no memory for. */
#ifndef CORE_PLUGIN_JSON_H
#define CORE_PLUGIN_JSON_H

#include <stdbool.h>

struct cJSON;

/* Both take over `item`, whatever comes of it; NULL stands for one that there was no memory for.
 * False without memory. */
bool json_add(struct cJSON *object, const char *name, struct cJSON *item);
bool json_append(struct cJSON *array, struct cJSON *item);
/* `item`, or NULL and no item if it is not `whole`. */
struct cJSON *json_whole(struct cJSON *item, bool whole);

/* The whole text as JSON. NULL: it is none, or there is no memory, which *no_memory tells. */
struct cJSON *json_parse(const char *text, bool *no_memory);

#endif
