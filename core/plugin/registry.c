/* The registry: finds plugins by name in the search path and keeps loaded what is used. */
#include "plugin/registry.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "host/error.h"
#include "plugin/descriptor.h"
#include "plugin/files.h"
#include "plugin/lookup.h"

struct registry {
    plugin_files files;
    bool trusts;
};

static bool is_trusting(void)
{
    const char *said = getenv("ZDS_TRUST_PLUGINS");
    return said && strcmp(said, "1") == 0;
}

zds_status registry_create(const char *path, const zds_plugin *const *linked, bool trusts,
                           registry **out, zds_error *error)
{
    *out = NULL;
    trusts = trusts || is_trusting();
    if (path && *path && !trusts)
        return error_set(error, ZDS_ERR_PLUGIN, "%s is a place of plugins; " LOOKUP_NOT_TRUSTED,
                         path);
    registry *reg = calloc(1, sizeof *reg);
    if (!reg)
        return error_set(error, ZDS_ERR_MEMORY, "there is no memory for the list of plugins");
    zds_status status = files_create(path, linked, &reg->files, error);
    if (status) {
        free(reg);
        return status;
    }
    reg->trusts = trusts;
    *out = reg;
    return ZDS_OK;
}

void registry_destroy(registry *reg)
{
    if (!reg)
        return;
    files_destroy(&reg->files);
    free(reg);
}

static zds_status find(registry *reg, int32_t kind, const char *name, const registry_match *match,
                       bool wary, const zds_plugin **plugin, const char **file, zds_error *error)
{
    if (!kind_name(kind) || !name || !*name)
        return error_set(error, ZDS_ERR_INVALID, "a plugin is looked up by a kind and a name");
    lookup look = {.files = &reg->files,
                   .kind = kind,
                   .name = name,
                   .match = match,
                   .load = true,
                   .wary = wary};
    zds_status status = lookup_run(&look, error);
    if (status)
        return status;
    *plugin = look.file->plugins[look.index];
    if (file)
        *file = look.file->path;
    return ZDS_OK;
}

zds_status registry_find(registry *reg, int32_t kind, const char *name, const registry_match *match,
                         const zds_plugin **plugin, const char **file, zds_error *error)
{
    return find(reg, kind, name, match, false, plugin, file, error);
}

zds_status registry_find_of_config(registry *reg, int32_t kind, const char *name,
                                   const registry_match *match, const zds_plugin **plugin,
                                   const char **file, zds_error *error)
{
    return find(reg, kind, name, match, !reg->trusts, plugin, file, error);
}

static bool has_installed(plugin_file *const *files, size_t count, const char *path)
{
    for (size_t i = 0; i < count; i++)
        if (files[i]->path == path)
            return files[i]->installed;
    return false;
}

bool registry_is_own(const registry *reg, const char *file)
{
    return has_installed(reg->files.file, reg->files.count, file) ||
           has_installed(reg->files.named, reg->files.named_count, file);
}

/* Shows the plugins of one file; false if `visit` has had enough. */
static bool visit_file(registry *reg, plugin_file *file, int32_t kind, const registry_match *match,
                       bool (*visit)(void *user, const zds_plugin *plugin, const char *file),
                       void *user)
{
    const char *by;
    size_t count = file->facts ? (size_t)cJSON_GetArraySize(file->facts) : 0;
    for (size_t i = 0; i < count; i++) {
        const cJSON *fact = cJSON_GetArrayItem(file->facts, (int)i);
        if (!fact || kind_number(fact_text(fact, "kind")) != kind || fact_reason(fact) ||
            !lookup_accepts(fact, match) || files_shadowed(&reg->files, file, i, &by))
            continue;
        file_load(file); /* makes new facts */
        fact = cJSON_GetArrayItem(file->facts, (int)i);
        if (file->reason || !fact || fact_reason(fact))
            return true;
        if (!visit(user, file->plugins[i], file->path))
            return false;
    }
    return true;
}

zds_status registry_each(registry *reg, int32_t kind, const registry_match *match,
                         bool (*visit)(void *user, const zds_plugin *plugin, const char *file),
                         void *user, zds_error *error)
{
    if (!kind_name(kind))
        return error_set(error, ZDS_ERR_INVALID, "there is no plugin kind %d", kind);
    plugin_files *files = &reg->files;
    for (size_t i = 0; i < files->count; i++)
        if (file_may_hold(files->file[i], kind))
            file_open(files, files->file[i], match != NULL);
    for (size_t i = 0; i < files->count; i++)
        if (!visit_file(reg, files->file[i], kind, match, visit, user))
            break;
    for (size_t i = 0; i < files->count; i++)
        if (files->file[i]->no_memory)
            return error_set(error, ZDS_ERR_MEMORY, "there is no memory to open %s",
                             files->file[i]->path);
    return ZDS_OK;
}
