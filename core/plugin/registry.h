/* The registry: finds plugins by name in the search path, refuses what does not fit, keeps loaded
 * what is used. */
#ifndef CORE_PLUGIN_REGISTRY_H
#define CORE_PLUGIN_REGISTRY_H

#include "zds/plugin.h"

typedef struct registry registry;

/* `path`: folders separated by ':' that are searched first (the config's zds.plugin_path), or NULL;
 * then ZDS_PLUGIN_PATH, then the install's plugin folder. `linked`: NULL-ended array of plugins in
 * the program, looked at before any file; or NULL. `trusts`: what a config names may be opened
 * wherever it lies, as with ZDS_TRUST_PLUGINS=1 in the environment; else a `path` is refused
 * (ZDS_ERR_PLUGIN). Nothing is opened yet. */
zds_status registry_create(const char *path, const zds_plugin *const *linked, bool trusts,
                           registry **out, zds_error *error);
void registry_destroy(registry *reg); /* unloads; instances must be gone */

/* What a plugin must accept: an optimizer space and dtypes, a backend space and ranks; ignored for
 * other kinds. */
typedef struct registry_match {
    zds_space space;
    zds_dtype grad_dtype, master_dtype, output_dtype;
    int32_t ranks, local_ranks; /* of the world, and of this node */
} registry_match;

/* The first plugin of `kind` with this name or alias (without case), or the one in the .so that
 * `name` is a path to (path.so, or path.so:NAME if it holds several of the kind), that accepts
 * `match` (NULL: anything). *file: where it came from, "" if linked; it lives as long as the
 * registry. The error names the nearest names, the rejected files with their reasons, or those of
 * the name that do not match and why. */
zds_status registry_find(registry *reg, int32_t kind, const char *name, const registry_match *match,
                         const zds_plugin **plugin, const char **file, zds_error *error);

/* The same of a name that stands in a config: a path to a file outside of the searched folders is
 * refused (ZDS_ERR_PLUGIN) by a registry that does not trust. */
zds_status registry_find_of_config(registry *reg, int32_t kind, const char *name,
                                   const registry_match *match, const zds_plugin **plugin,
                                   const char **file, zds_error *error);

/* True if `file`, as registry_find gave it, came with this install. */
bool registry_is_own(const registry *reg, const char *file);

/* Calls visit for every usable plugin of a kind in search order, but for shadowed ones, until it
 * returns false. With `match` no file is loaded that holds none that accepts it. */
zds_status registry_each(registry *reg, int32_t kind, const registry_match *match,
                         bool (*visit)(void *user, const zds_plugin *plugin, const char *file),
                         void *user, zds_error *error);

/* The vtable of a plugin, copied into `ops` (size bytes, of the kind's type) with what an older
 * plugin does not have as zero. */
void plugin_ops(const zds_plugin *plugin, void *ops, size_t size);

#endif
