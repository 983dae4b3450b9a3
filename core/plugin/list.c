/* The list of all plugins, and what one of them says of itself: the public side of the search. */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "host/error.h"
#include "host/sized.h"
#include "plugin/descriptor.h"
#include "plugin/files.h"
#include "plugin/lookup.h"
#include "zds/zds.h"

typedef struct row {
    zds_plugin_entry shown; /* points into files and the two below */
    char *aliases, *reason;
} row;

struct zds_plugin_list {
    plugin_files files;
    row *rows;
    size_t count;
};

static char *aliases_of(const cJSON *fact)
{
    char *list = strdup("");
    const cJSON *item, *array = cJSON_GetObjectItemCaseSensitive(fact, "aliases");
    cJSON_ArrayForEach(item, array)
    {
        char *longer = list ? text_format("%s%s%s", list, *list ? "," : "",
                                          cJSON_IsString(item) ? item->valuestring : "")
                            : NULL;
        free(list);
        list = longer;
    }
    return list;
}

/* An entry for plugin `index` of a file, or for a file refused as a whole (no fact). False without
 * memory. */
static bool add_entry(zds_plugin_list *list, const plugin_file *file, const cJSON *fact,
                      size_t index)
{
    row *made = &list->rows[list->count];
    const char *by, *reason = fact ? fact_reason(fact) : file->reason;
    const char *status = reason ? "rejected" : "ok";
    if (reason)
        made->reason = strdup(reason);
    else if (files_shadowed(&list->files, file, index, &by)) {
        status = "shadowed";
        made->reason = text_format("%s comes first", by[0] ? by : "one linked into the program");
    } else
        made->reason = strdup("");
    made->aliases = aliases_of(fact);
    list->count++; /* so that it is freed in any case */
    if (!made->reason || !made->aliases)
        return false;
    made->shown = (zds_plugin_entry){.kind = fact_text(fact, "kind"),
                                     .name = fact_text(fact, "name"),
                                     .aliases = made->aliases,
                                     .version = fact_text(fact, "version"),
                                     .doc = fact_text(fact, "doc"),
                                     .abi = fact_text(fact, "abi"),
                                     .file = file->path,
                                     .status = status,
                                     .reason = made->reason};
    return true;
}

static bool add_entries(zds_plugin_list *list)
{
    plugin_files *files = &list->files;
    size_t most = 0;
    for (size_t i = 0; i < files->count; i++) {
        file_open(files, files->file[i], true);
        most += files->file[i]->reason ? 1 : (size_t)cJSON_GetArraySize(files->file[i]->facts);
    }
    list->rows = calloc(most + 1, sizeof *list->rows);
    if (!list->rows)
        return false;
    for (size_t i = 0; i < files->count; i++) {
        const plugin_file *file = files->file[i];
        const cJSON *fact;
        size_t index = 0;
        if (file->reason && !add_entry(list, file, NULL, 0))
            return false;
        cJSON_ArrayForEach(fact,
                           file->facts) if (!add_entry(list, file, fact, index++)) return false;
    }
    return true;
}

zds_status zds_plugin_list_create(const char *path, zds_plugin_list **list, zds_error *error)
{
    *list = NULL;
    zds_plugin_list *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(error, ZDS_ERR_MEMORY, "there is no memory for the list of plugins");
    zds_status status = files_create(path, NULL, &made->files, error);
    if (!status && !add_entries(made))
        status = error_set(error, ZDS_ERR_MEMORY, "there is no memory for the list of plugins");
    if (status)
        zds_plugin_list_destroy(made);
    else
        *list = made;
    return status;
}

void zds_plugin_list_destroy(zds_plugin_list *list)
{
    if (!list)
        return;
    for (size_t i = 0; i < list->count; i++) {
        free(list->rows[i].aliases);
        free(list->rows[i].reason);
    }
    free(list->rows);
    files_destroy(&list->files);
    free(list);
}

bool zds_plugin_list_entry_sized(const zds_plugin_list *list, size_t i, zds_plugin_entry *entry,
                                 size_t size)
{
    if (i >= list->count)
        return false;
    sized_fill(entry, size, &list->rows[i].shown, sizeof *entry);
    return true;
}

/* The facts without `reason`, in the order in which people read them, with the file. */
static char *info_text(cJSON *fact, const char *file)
{
    static const char *const keys[] = {
        "name",   "kind",        "doc",           "version",       "abi",           "aliases",
        "spaces", "grad_dtypes", "reduce_dtypes", "master_dtypes", "output_dtypes", "options"};
    cJSON *info = cJSON_CreateObject();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(keys[i], "aliases") == 0)
            cJSON_AddStringToObject(info, "file", file);
        cJSON *item = cJSON_DetachItemFromObjectCaseSensitive(fact, keys[i]);
        if (item)
            cJSON_AddItemToObject(info, keys[i], item);
    }
    char *text = cJSON_Print(info);
    cJSON_Delete(info);
    return text;
}

zds_status zds_plugin_info(const char *path, const char *name, char **json, zds_error *error)
{
    plugin_files files;
    *json = NULL;
    if (!name || !*name)
        return error_set(error, ZDS_ERR_INVALID, "a plugin is looked up by its name or path");
    zds_status status = files_create(path, NULL, &files, error);
    if (status)
        return status;
    lookup look = {.files = &files, .name = name};
    status = lookup_run(&look, error);
    if (!status) {
        *json = info_text(cJSON_GetArrayItem(look.file->facts, (int)look.index), look.file->path);
        if (!*json)
            status =
                error_set(error, ZDS_ERR_MEMORY, "there is no memory to describe \"%s\"", name);
    }
    files_destroy(&files);
    return status;
}
