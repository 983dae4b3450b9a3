/* Looking into trees of cJSON nodes. */
#include <stdio.h>
#include <string.h>

#include "config/internal.h"

/* The element of an array that a number names. */
static const cJSON *element(const cJSON *array, const char *number, size_t length)
{
    size_t i = 0;
    const cJSON *item = array->child;
    if (length == 0 || length > 9 || strspn(number, "0123456789") != length)
        return NULL;
    for (size_t k = 0; k < length; k++)
        i = 10 * i + (size_t)(number[k] - '0');
    while (item && i--)
        item = item->next;
    return item;
}

/* The child of `object`, or the element of an array, that the front of `path` names, and how much
 * of the path that is: all of it if there is such a key, else up to the first dot. */
static const cJSON *step(const cJSON *object, const char *path, size_t *used)
{
    const cJSON *child = NULL, *item;
    size_t length = strcspn(path, "."), rest = strlen(path);
    if (cJSON_IsArray(object))
        return element(object, path, *used = length);
    if (!cJSON_IsObject(object))
        return NULL;
    cJSON_ArrayForEach(item, object)
    {
        if (!item->string)
            continue;
        if (strcmp(item->string, path) == 0) {
            *used = rest;
            return item;
        }
        if (!child && strncmp(item->string, path, length) == 0 && !item->string[length])
            child = item;
    }
    *used = length;
    return child;
}

static const cJSON *walk(const cJSON *node, const char *path, bool nearest)
{
    while (node && *path) {
        size_t used;
        const cJSON *child = step(node, path, &used);
        if (!child)
            return nearest ? node : NULL;
        node = child;
        path += used + (path[used] == '.');
    }
    return node;
}

const cJSON *tree_find(const cJSON *root, const char *path)
{
    return walk(root, path, false);
}

const cJSON *tree_nearest(const cJSON *root, const char *path)
{
    return walk(root, path, true);
}

char *tree_text(const cJSON *node)
{
    char *printed = node ? cJSON_PrintUnformatted(node) : NULL, *text = NULL;
    if (printed)
        text = strdup(printed); /* cJSON's memory may be another allocator's */
    cJSON_free(printed);
    return text;
}

bool tree_is_auto(const cJSON *node)
{
    return cJSON_IsString(node) && strcmp(node->valuestring, "auto") == 0;
}

void tree_show(const cJSON *node, char *text, size_t size)
{
    if (!node) {
        snprintf(text, size, "nothing");
    } else if (cJSON_IsObject(node) || (cJSON_IsArray(node) && !node->child)) {
        snprintf(text, size, "%s", cJSON_IsObject(node) ? "an object" : "[]");
    } else if (cJSON_IsString(node)) {
        const char *s = node->valuestring;
        size_t length = strlen(s), shown = length > 40 ? 40 : length;
        while (shown < length && shown > 0 && ((unsigned char)s[shown] & 0xc0) == 0x80)
            shown--;
        snprintf(text, size, "\"%.*s%s\"", (int)shown, s, shown < length ? "..." : "");
    } else if (cJSON_IsArray(node) && cJSON_GetArraySize(node) > 8) {
        snprintf(text, size, "an array");
    } else {
        char printed[512];
        bool fits = cJSON_PrintPreallocated((cJSON *)node, printed, sizeof printed, false);
        snprintf(text, size, "%s", fits ? printed : "an array");
    }
}
