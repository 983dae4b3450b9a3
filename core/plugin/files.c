/* The files in the search path: which there are, which may be opened, and what is in them. */
#include "plugin/files.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "host/error.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"
#include "plugin/load.h"
#include "plugin/place.h"
#include "plugin/probe.h"

static void refuse(plugin_file *file, char *reason)
{
    cJSON_Delete(file->facts);
    fault_free(file->reason);
    file->facts = NULL;
    file->known = true;
    file->reason = reason ? reason : fault_no_memory();
    file->no_memory = fault_is_memory(file->reason);
}

static void file_destroy(plugin_file *file)
{
    load_close(file->handle);
    cJSON_Delete(file->facts);
    fault_free(file->reason);
    free(file->path);
    free(file);
}

/* Takes over `path`. NULL without memory. */
static plugin_file *add(plugin_file ***list, size_t *count, char *path)
{
    plugin_file **longer = path ? realloc(*list, (*count + 1) * sizeof(plugin_file *)) : NULL;
    plugin_file *file = longer ? calloc(1, sizeof *file) : NULL;
    if (longer)
        *list = longer;
    if (!file) {
        free(path);
        return NULL;
    }
    file->path = path;
    (*list)[(*count)++] = file;
    return file;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Instead of a plugin that a build has left out: a line that says why. */
static const char ABSENT[] = ".absent";

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), tail = strlen(end);
    return length > tail && strcmp(name + length - tail, end) == 0;
}

static int is_library(const struct dirent *entry)
{
    return entry->d_name[0] != '.' &&
           (ends_with(entry->d_name, ".so") || ends_with(entry->d_name, ABSENT));
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Adds the libraries of one folder. False without memory. */
static bool add_folder(plugin_files *files, const char *folder, bool installed)
{
    char *fault = place_fault(folder, installed);
    if (fault) {
        plugin_file *entry = add(&files->file, &files->count, strdup(folder));
        if (entry)
            refuse(entry, fault);
        else
            fault_free(fault);
        if (entry)
            entry->folder = files->folder_count;
        return entry != NULL;
    }
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, is_library, by_bytes);
    bool ok = count >= 0 || errno != ENOMEM;
    for (int i = 0; i < count; i++) {
        char *path = text_format("%s/%s", folder, entries[i]->d_name);
        plugin_file *file = add(&files->file, &files->count, path);
        ok = ok && file;
        if (file) {
            file->folder = files->folder_count;
            file->installed = installed;
        }
        free(entries[i]);
    }
    free(entries);
    return ok;
}

/* Takes over `folder`; one that is there already is left out. False without memory. */
static bool note_folder(plugin_files *files, char *folder, bool *added)
{
    *added = false;
    for (size_t i = 0; folder && i < files->folder_count; i++)
        if (strcmp(files->folder[i], folder) == 0) {
            free(folder);
            return true;
        }
    char **longer =
        folder ? realloc(files->folder, (files->folder_count + 1) * sizeof *longer) : NULL;
    if (!longer) {
        free(folder);
        return false;
    }
    files->folder = longer;
    files->folder[files->folder_count++] = folder;
    *added = true;
    return true;
}

/* Adds the folders of "a:b:c". False without memory. */
static bool add_path(plugin_files *files, const char *path, const char *own)
{
    for (const char *start = path; start && *start;) {
        size_t length = strcspn(start, ":");
        char *wanted = strndup(start, length);
        char *real = wanted && length ? realpath(wanted, NULL) : NULL;
        bool ok = wanted && (real || !length || errno != ENOMEM), added = false;
        bool installed = real && own && strcmp(real, own) == 0;
        if (real)
            ok = note_folder(files, real, &added) &&
                 (!added || add_folder(files, files->folder[files->folder_count - 1], installed));
        else if (ok && length)
            ok = note_folder(files, text_format("%s (cannot be found)", wanted), &added);
        free(wanted);
        if (!ok)
            return false;
        start += length + (start[length] == ':');
    }
    return true;
}

static bool add_linked(plugin_files *files, const zds_plugin *const *linked)
{
    plugin_file *file = linked ? add(&files->file, &files->count, strdup("")) : NULL;
    if (!file)
        return !linked;
    file->facts = descriptor_facts(linked);
    file->plugins = linked;
    file->known = true;
    return file->facts != NULL;
}

zds_status files_create(const char *path, const zds_plugin *const *linked, plugin_files *files,
                        zds_error *error)
{
    static const char here;
    *files = (plugin_files){.install = place_install(&here)};
    bool ok = files->install || errno != ENOMEM;
    char *own = files->install ? text_format("%s/plugins", files->install) : NULL;
    ok = ok && (own || !files->install) && add_linked(files, linked) &&
         add_path(files, path, own) && add_path(files, secure_getenv("ZDS_PLUGIN_PATH"), own) &&
         add_path(files, own, own);
    free(own);
    if (ok)
        return ZDS_OK;
    files_destroy(files);
    return error_set(error, ZDS_ERR_MEMORY, "there is no memory for the list of plugins");
}

void files_destroy(plugin_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        file_destroy(files->file[i]);
    for (size_t i = 0; i < files->named_count; i++)
        file_destroy(files->named[i]);
    free(files->file);
    free(files->named);
    free(files->install);
    for (size_t i = 0; i < files->folder_count; i++)
        free(files->folder[i]);
    free(files->folder);
    *files = (plugin_files){0};
}

bool files_searched(const plugin_files *files, const char *path)
{
    struct stat given, own;
    if (stat(path, &given) != 0)
        return false;
    for (size_t i = 0; i < files->count; i++)
        if (files->file[i]->path[0] && stat(files->file[i]->path, &own) == 0 &&
            S_ISREG(own.st_mode) && own.st_dev == given.st_dev && own.st_ino == given.st_ino)
            return true;
    return false;
}

plugin_file *files_named(plugin_files *files, const char *path)
{
    /* Without a slash dlopen would look through the system's libraries. */
    char *copy = text_format("%s%s", strchr(path, '/') ? "" : "./", path);
    for (size_t i = 0; copy && i < files->named_count; i++)
        if (strcmp(files->named[i]->path, copy) == 0) {
            free(copy);
            return files->named[i];
        }
    plugin_file *file = add(&files->named, &files->named_count, copy);
    char *real = file && files->install ? realpath(path, NULL) : NULL;
    if (file && files->install && !real && errno == ENOMEM)
        return NULL;
    size_t length = real ? strlen(files->install) : 0;
    static const char folder[] = "/plugins/";
    if (real && strncmp(real, files->install, length) == 0)
        file->installed = strncmp(real + length, folder, sizeof folder - 1) == 0 &&
                          !strchr(real + length + sizeof folder - 1, '/');
    free(real);
    return file;
}

static char *absence(const char *path)
{
    char line[512] = "";
    FILE *text = fopen(path, "re");
    if (text && fgets(line, sizeof line, text))
        line[strcspn(line, "\n")] = '\0';
    if (text)
        fclose(text);
    return fault_format("%s", *line ? line : "it was left out of this build");
}

void file_open(const plugin_files *files, plugin_file *file, bool in_child)
{
    if (file->known)
        return;
    char *reason = place_fault(file->path, file->installed);
    if (reason) {
        refuse(file, reason);
    } else if (ends_with(file->path, ABSENT)) {
        refuse(file, absence(file->path));
        file->warned = true; /* it stands in nobody's way */
    } else if (file->installed && !in_child) {
        file_load(file);
    } else {
        file->facts = probe_file(files->install, file->path, &reason);
        file->known = true;
        if (!file->facts)
            refuse(file, reason);
    }
}

void file_load(plugin_file *file)
{
    if (file->plugins)
        return;
    char *reason = load_open(file->path, &file->handle, &file->plugins);
    cJSON *facts = reason ? NULL : descriptor_facts(file->plugins);
    if (!facts) {
        file->plugins = NULL;
        refuse(file, reason);
        return;
    }
    cJSON_Delete(file->facts);
    file->facts = facts;
    file->known = true;
}

/* The part of "KIND_NAME.so" behind "KIND_", or NULL if the file is not named so. */
static const char *stem_of(const plugin_file *file, int32_t kind)
{
    const char *name = base_name(file->path), *prefix = kind_name(kind);
    size_t length = prefix ? strlen(prefix) : 0;
    return length && strncmp(name, prefix, length) == 0 && name[length] == '_' ? name + length + 1
                                                                               : NULL;
}

bool file_may_hold(const plugin_file *file, int32_t kind)
{
    if (!file->installed || !kind || stem_of(file, kind))
        return true;
    for (int32_t other = 1; kind_name(other); other++)
        if (stem_of(file, other))
            return false;
    return true;
}

/* True if the stem up to ".so" or ".absent" is a name, or how it begins: "warmup" for WarmupLR.
 * Case, _ and - count for nothing. */
static bool begins_with_stem(const char *name, const char *stem)
{
    for (;; stem++, name++) {
        stem += strspn(stem, "_-");
        name += strspn(name, "_-");
        if (strcmp(stem, ".so") == 0 || strcmp(stem, ABSENT) == 0)
            return true;
        if (tolower((unsigned char)*stem) != tolower((unsigned char)*name))
            return false;
    }
}

bool file_is_likely(const plugin_file *file, int32_t kind, const char *name)
{
    for (int32_t k = kind ? kind : 1; kind_name(k); k++) {
        const char *stem = stem_of(file, k);
        if (stem && begins_with_stem(name, stem))
            return true;
        if (kind)
            return false;
    }
    return false;
}

plugin_file **files_order(const plugin_files *files, int32_t kind, const char *name)
{
    plugin_file **order = malloc((files->count + 1) * sizeof(plugin_file *));
    size_t filled = 0;
    for (size_t first = 0, end; order && first < files->count; first = end) {
        size_t folder = files->file[first]->folder;
        for (end = first; end < files->count && files->file[end]->folder == folder; end++)
            ;
        for (int likely = 1; likely >= 0; likely--)
            for (size_t i = first; i < end; i++)
                if (file_is_likely(files->file[i], kind, name) == likely)
                    order[filled++] = files->file[i];
    }
    if (order)
        order[filled] = NULL;
    return order;
}

const char *fact_text(const cJSON *fact, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(fact, key));
    return text ? text : "";
}

const char *fact_reason(const cJSON *fact)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(fact, "reason"));
}

bool fact_lists(const cJSON *fact, const char *key, const char *word)
{
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(fact, key), *item;
    cJSON_ArrayForEach(item, array) if (cJSON_IsString(item) &&
                                        strcasecmp(item->valuestring, word) == 0) return true;
    return false;
}

bool fact_is(const cJSON *fact, int32_t kind, const char *name)
{
    return (!kind || strcmp(fact_text(fact, "kind"), kind_name(kind)) == 0) && *name &&
           (strcasecmp(fact_text(fact, "name"), name) == 0 || fact_lists(fact, "aliases", name));
}

/* True if whatever could use `later` could use `first` as well. */
static bool covers(const cJSON *first, const cJSON *later)
{
    static const char *const keys[] = {"spaces", "grad_dtypes", "master_dtypes", "output_dtypes"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const cJSON *item, *array = cJSON_GetObjectItemCaseSensitive(later, keys[i]);
        cJSON_ArrayForEach(item,
                           array) if (!cJSON_IsString(item) ||
                                      !fact_lists(first, keys[i], item->valuestring)) return false;
    }
    return true;
}

/* Whether files_order puts file `a` of the search path before `b`. */
static bool comes_before(const plugin_files *files, size_t a, size_t b, int32_t kind,
                         const char *name)
{
    const plugin_file *first = files->file[a], *second = files->file[b];
    bool likely = file_is_likely(first, kind, name);
    if (first->folder != second->folder || likely == file_is_likely(second, kind, name))
        return a < b;
    return likely;
}

/* True if the file has a plugin that takes the place of `mine`; of the same file, in front of it.
 */
static bool replaces(const plugin_file *file, const cJSON *mine, int32_t kind, const char *name)
{
    const cJSON *other;
    cJSON_ArrayForEach(other, file->facts)
    {
        if (other == mine)
            return false;
        if (!fact_reason(other) && fact_is(other, kind, name) && covers(other, mine))
            return true;
    }
    return false;
}

bool files_shadowed(const plugin_files *files, const plugin_file *file, size_t index,
                    const char **by)
{
    const cJSON *mine = cJSON_GetArrayItem(file->facts, (int)index);
    const char *name = fact_text(mine, "name");
    int32_t kind = kind_number(fact_text(mine, "kind"));
    size_t own = 0, found = files->count;
    while (own < files->count && files->file[own] != file)
        own++;
    for (size_t i = 0; i < files->count; i++)
        if ((own == files->count || i == own || comes_before(files, i, own, kind, name)) &&
            (found == files->count || comes_before(files, i, found, kind, name)) &&
            replaces(files->file[i], mine, kind, name))
            found = i;
    if (found == files->count)
        return false;
    *by = files->file[found]->path;
    return true;
}
