/* Loads a plugin's file into this process. */
#ifndef CORE_PLUGIN_LOAD_H
#define CORE_PLUGIN_LOAD_H

#include "zds/plugin.h"

/* Returns why it cannot be loaded, as a fault; NULL if *handle and *plugins were set. Any
 * thread. */
char *load_open(const char *path, void **handle, const zds_plugin *const **plugins);
void load_close(void *handle);

#endif
