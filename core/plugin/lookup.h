/* One plugin looked up by its name or by the path of its file. */
#ifndef CORE_PLUGIN_LOOKUP_H
#define CORE_PLUGIN_LOOKUP_H

#include "plugin/files.h"
#include "plugin/registry.h"

/* After what a config names. */
#define LOOKUP_NOT_TRUSTED                                                                         \
    "a config may come from anybody, and what it names runs as your own code: if you trust it, "   \
    "pass --trust_plugins, set ZDS_TRUST_PLUGINS=1, or options.trust_config_plugins of a program"

typedef struct lookup {
    plugin_files *files;
    int32_t kind;                /* 0: any */
    const char *name;            /* name, alias, path or path:NAME */
    const registry_match *match; /* as in registry_find */
    bool load;                   /* into this process; otherwise facts are enough */
    bool wary;                   /* files outside of the searched folders are refused */
    plugin_file *file;           /* out */
    size_t index;                /* out: in file->facts and file->plugins */
} lookup;

/* True if the plugin of these facts accepts `match` (NULL: anything). */
bool lookup_accepts(const struct cJSON *fact, const registry_match *match);

/* The errors are those of registry_find. */
zds_status lookup_run(lookup *look, zds_error *error);

#endif
