/* One plugin looked up by its name or by the path of its file. */
#ifndef CORE_PLUGIN_LOOKUP_H
#define CORE_PLUGIN_LOOKUP_H

#include "plugin/files.h"
#include "plugin/registry.h"

typedef struct lookup {
    plugin_files *files;
    int32_t kind;                /* 0: any */
    const char *name;            /* name, alias, path or path:NAME */
    const registry_match *match; /* as in registry_find */
    bool load;                   /* into this process; otherwise facts are enough */
    plugin_file *file;           /* out */
    size_t index;                /* out: in file->facts and file->plugins */
} lookup;

/* True if the plugin of these facts accepts `match` (NULL: anything). */
bool lookup_accepts(const struct cJSON *fact, const registry_match *match);

/* The errors are those of registry_find. */
zds_status lookup_run(lookup *look, zds_error *error);

#endif
