/* Metrics of a run from a file, for schedules that follow them. */
#include "metrics.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fail.h"

enum { MOST = 256 << 20 /* bytes */ };

static zds_status read_text(const char *path, char **text, size_t *length, zds_error *error)
{
    size_t room = 0;
    FILE *in = fopen(path, "rbe");
    *text = NULL;
    *length = 0;
    if (!in)
        return fail(error, ZDS_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
    zds_status status = ZDS_OK;
    do {
        room = room ? 2 * room : 65536;
        char *grown = room <= MOST ? realloc(*text, room) : NULL;
        if (!grown) {
            status = fail(error, ZDS_ERR_MEMORY, "%s: is too long", path);
            break;
        }
        *text = grown;
        *length += fread(*text + *length, 1, room - *length, in);
    } while (*length == room);
    if (!status && ferror(in))
        status = fail(error, ZDS_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
    fclose(in);
    return status;
}

zds_status metrics_read(const char *path, double **values, size_t *count, zds_error *error)
{
    char *text;
    size_t length, i = 0;
    const cJSON *item;
    *values = NULL;
    zds_status status = read_text(path, &text, &length, error);
    cJSON *list = status ? NULL : cJSON_ParseWithLength(text, length);
    free(text);
    if (status)
        return status;
    if (!cJSON_IsArray(list)) {
        cJSON_Delete(list);
        return fail(error, ZDS_ERR_FORMAT, "%s: is not a JSON array of numbers", path);
    }
    *count = (size_t)cJSON_GetArraySize(list);
    *values = calloc(*count + 1, sizeof **values);
    if (!*values)
        status = fail(error, ZDS_ERR_MEMORY, "%s: there is no memory for its metrics", path);
    cJSON_ArrayForEach(item, list)
    {
        if (!status && !cJSON_IsNumber(item) && !cJSON_IsNull(item))
            status = fail(error, ZDS_ERR_FORMAT, "%s: value %zu is neither a number nor null", path,
                          i + 1);
        if (!status)
            (*values)[i++] = cJSON_IsNull(item) ? (double)NAN : item->valuedouble;
    }
    cJSON_Delete(list);
    return status;
}
