/* A config and the plugins that it names. */
#ifndef CORE_CONFIG_PLUGINS_H
#define CORE_CONFIG_PLUGINS_H

#include "config/internal.h"

/* The folders of zds.plugin_path, joined by ':', or NULL. The caller frees it. */
char *config_plugin_path(const zds_config *c);
/* Holds optimizer and scheduler against the tables of their plugins; reports problems. "auto" that
 * nothing filled is told by effective_rules already. */
void config_check_plugins(zds_config *c);

#endif
