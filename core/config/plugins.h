/* A config and the plugins that it names. */
#ifndef CORE_CONFIG_PLUGINS_H
#define CORE_CONFIG_PLUGINS_H

#include "config/internal.h"

/* "it is an option of AdamW and belongs in optimizer.params": of a key with this name at another
 * path; the caller frees it. NULL: no plugin has it, or not the one that the config names. */
char *config_option_place(const zds_config *c, struct registry *plugins, const char *path,
                          const char *name);
/* Reports strays and holds optimizer and scheduler against the tables of their plugins; reports
 * problems. "auto" that nothing filled is told by effective_rules already. */
void config_check_plugins(zds_config *c, bool trusts);

#endif
