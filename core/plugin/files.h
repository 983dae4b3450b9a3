/* The files in the search path: which there are, which may be opened, and what is in them. */
#ifndef CORE_PLUGIN_FILES_H
#define CORE_PLUGIN_FILES_H

#include "zds/plugin.h"

struct cJSON;

/* A file, or the plugins linked into the program. */
typedef struct plugin_file {
    char *path;          /* "" for linked plugins */
    size_t folder;       /* position of its folder in the search path */
    bool installed;      /* lies in the install's own folder */
    bool known;          /* it has been opened, or refused: facts and reason say what came of it */
    bool warned;         /* the log has told of the refusal */
    bool no_memory;      /* that is why it is refused, which is no property of the file */
    char *reason;        /* why the whole file is refused, or NULL */
    struct cJSON *facts; /* as descriptor_facts makes them; NULL if refused */
    const zds_plugin *const *plugins; /* in this process, in the order of facts; NULL: not loaded */
    void *handle;                     /* of load_open */
} plugin_file;

typedef struct plugin_files {
    plugin_file **file; /* in search order */
    size_t count;
    plugin_file **named; /* those given by path, in no order */
    size_t named_count;
    char *install; /* place_install, or NULL */
    char **folder; /* the search path, for messages; plugin_file.folder counts from 1 here */
    size_t folder_count;
} plugin_files;

/* Lists the files of the search path, of which none is opened. A folder that is refused is an entry
 * with a reason. */
zds_status files_create(const char *path, const zds_plugin *const *linked, plugin_files *files,
                        zds_error *error);
void files_destroy(plugin_files *files);

/* The file at `path` is one of the search path's. */
bool files_searched(const plugin_files *files, const char *path);

/* The file at `path`, which need not be in the search path. NULL without memory. */
plugin_file *files_named(plugin_files *files, const char *path);

/* Makes facts known. Files of the install are loaded at once unless `in_child`; all others are
 * opened in a child process. */
void file_open(const plugin_files *files, plugin_file *file, bool in_child);
/* Loads it into this process and takes the facts from there. On failure it has a reason. */
void file_load(plugin_file *file);

/* Below, kind 0 stands for any kind. */

/* False if the file's name alone says that it holds no plugin of this kind: the install's files are
 * named KIND_NAME.so. */
bool file_may_hold(const plugin_file *file, int32_t kind);
/* All files in the order in which they are asked for a plugin: folder by folder, in each the file
 * KIND_NAME.so first (case, _ and - count for nothing), then by name. The caller frees the array.
 */
plugin_file **files_order(const plugin_files *files, int32_t kind, const char *name);
/* True if the file is the one that files_order puts first in its folder. */
bool file_is_likely(const plugin_file *file, int32_t kind, const char *name);

/* True if plugin `index` of the file can never be found by its name, since another comes first.
 * Only files that are known count. *by: the other's file. */
bool files_shadowed(const plugin_files *files, const plugin_file *file, size_t index,
                    const char **by);

/* What one entry of facts says. Strings are never NULL, but fact_reason is for a usable plugin. */
const char *fact_text(const struct cJSON *fact, const char *key);
const char *fact_reason(const struct cJSON *fact);
/* True if it is of this kind and has this name or alias. */
bool fact_is(const struct cJSON *fact, int32_t kind, const char *name);
/* True if the array `key` of strings holds `word`. */
bool fact_lists(const struct cJSON *fact, const char *key, const char *word);

#endif
