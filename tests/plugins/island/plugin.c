/* What the island's file exports: the tier, the backend, and a wrapper for each optimizer that is
 * found beside them when the file is loaded. */
#include <dlfcn.h>
#include <glob.h>
#include <stddef.h>
#include <stdlib.h>

/* The header declares the symbol for those whose plugins are known when they are built. */
#define zds_plugin_v1 island_plugins
#include "island.h"
#undef zds_plugin_v1

enum { MOST_PLUGINS = 80, MOST_FILES = 64 };

ZDS_EXPORT extern const zds_plugin *zds_plugin_v1[MOST_PLUGINS + 1];
const zds_plugin *zds_plugin_v1[MOST_PLUGINS + 1];

static void *files[MOST_FILES];
static size_t plugin_count, file_count;

static void add(const zds_plugin *plugin)
{
    if (plugin && plugin_count < MOST_PLUGINS)
        zds_plugin_v1[plugin_count++] = plugin;
}

static void wrap_file(const char *path)
{
    void *file = file_count < MOST_FILES ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    const zds_plugin *const *list = file ? dlsym(file, "zds_plugin_v1") : NULL;
    if (file)
        files[file_count++] = file;
    for (; list && *list; list++)
        if ((*list)->kind == ZDS_KIND_OPTIM)
            add(island_wrap(*list));
}

__attribute__((constructor)) static void fill(void)
{
    glob_t found;
    add(&island_tier);
    if (island_comm_init())
        add(&island_comm);
    if (glob(ISLAND_HOST_PLUGINS "/optim_*.so", 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++)
            wrap_file(found.gl_pathv[i]);
    globfree(&found);
    if (getenv("ZDS_TEST_OPTIM")) /* one more, which no install has */
        wrap_file(getenv("ZDS_TEST_OPTIM"));
}

__attribute__((destructor)) static void empty(void)
{
    for (size_t i = 0; i < file_count; i++)
        dlclose(files[i]);
}
