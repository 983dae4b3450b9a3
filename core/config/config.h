/* What the rest of the core asks of a config: trees, and where what it has against them belongs. */
#ifndef CORE_CONFIG_CONFIG_H
#define CORE_CONFIG_CONFIG_H

#include <cjson/cJSON.h>

#include "config/problems.h"

/* The resolved tree below a path ("" is all of it), or NULL. Belongs to the config. */
const cJSON *config_node(const zds_config *c, const char *path);
/* The section of zds.tiers with this name, or NULL; "none" names none. */
const cJSON *config_tier(const zds_config *c, const char *name);
/* How many ranks it was loaded for. */
int32_t config_ranks(const zds_config *c);
/* The folders of zds.plugin_path, joined by ':', or NULL. The caller frees it. */
char *config_plugin_path(const zds_config *c);

bool config_has_errors(const zds_config *c, int32_t check); /* check < 0: any */
/* True if the config's own problems have an error at this path, or at a section around it. */
bool config_has_error_around(const zds_config *c, const char *path);

/* Adds what somebody has against the value of `path`, with its place. A schedule that is not the
 * config's is where the training arguments name it, and its options are in their
 * lr_scheduler_kwargs. */
void config_note(const zds_config *c, problems *all, int32_t severity, const char *path,
                 const char *message);
/* Adds every key whose value zds knows but does not implement, or refuses. Values that equal the
 * default are harmless. */
void config_require_implemented(const zds_config *c, problems *all);
/* The path of the key that a plugin's message is about: the first of its words that is an option
 * written in `section`, else, with an underscore, any key that is written, else the section. */
void config_path_in(const zds_config *c, const char *section, const char *message, char *path,
                    size_t size);

#endif
