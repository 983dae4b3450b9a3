/* Trees of JSON that are whole or not there. */
#include "plugin/json.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

bool json_add(cJSON *object, const char *name, cJSON *item)
{
    if (object && item && cJSON_AddItemToObject(object, name, item))
        return true;
    cJSON_Delete(item);
    return false;
}

bool json_append(cJSON *array, cJSON *item)
{
    if (array && item && cJSON_AddItemToArray(array, item))
        return true;
    cJSON_Delete(item);
    return false;
}

cJSON *json_whole(cJSON *item, bool whole)
{
    if (whole)
        return item;
    cJSON_Delete(item);
    return NULL;
}

cJSON *json_parse(const char *text, bool *no_memory)
{
    *no_memory = false;
    cJSON *tree = cJSON_ParseWithOpts(text, NULL, true);
    if (tree)
        return tree;
    /* cJSON does not say which it was. A text that is none fails again where there is room for all
     * the nodes that it could have. */
    tree = cJSON_ParseWithOpts(text, NULL, true);
    void *room = malloc((strlen(text) + 1) * (sizeof *tree + 2));
    *no_memory = tree || !room;
    free(room);
    cJSON_Delete(tree);
    return NULL;
}
