/* A plugin's options struct, filled from JSON by the plugin's own table. */
#ifndef CORE_PLUGIN_OPTIONS_H
#define CORE_PLUGIN_OPTIONS_H

#include "zds/plugin.h"

struct cJSON;

/* Called for each thing that is wrong. `key`: the option's name; `message`: what is wrong and what
 * to write instead. */
typedef void (*options_problem_fn)(void *user, const char *key, const char *message);

/* Checks `params` (an object, or NULL for all defaults) against the table and, if nothing is wrong,
 * makes the struct. All problems are reported, not only the first. Unknown keys name the nearest
 * option. A leftover "auto" is a problem. Returns NULL if there was a problem or no memory. */
void *options_create(const zds_plugin *plugin, const struct cJSON *params,
                     options_problem_fn problem, void *user);
void options_destroy(void *options);

/* Checks only. Returns the number of problems. */
size_t options_check(const zds_plugin *plugin, const struct cJSON *params,
                     options_problem_fn problem, void *user);

/* Options of torch.optim's classes that say how they compute, not what: unknown to plugins, and
 * ignored where they are off. NULL-ended. */
extern const char *const options_of_pytorch[];

/* The option with this name, or NULL; case matters. */
const zds_option *options_find(const zds_plugin *plugin, const char *name);
/* Reads numbers back from a filled struct: count values of a FLOAT or FLOATS option into `out`;
 * false if there is no such option. */
bool options_floats(const zds_plugin *plugin, const void *options, const char *name, double *out,
                    size_t count);
/* An optimizer's hyperparameters by the names that plugin.h gives them; NaN where it has no such
 * option. */
zds_hyper options_hyper(const zds_plugin *plugin, const void *options);
/* Hyperparameters of a group of parameters: those of "lr", "betas", "momentum" and "weight_decay"
 * that the optimizer has, as keys of `group`, an object; other keys but "params" are problems.
 * Fields of `hyper` (may be NULL) that it does not set stay. Returns the number of problems. */
size_t options_group(const zds_plugin *plugin, const struct cJSON *group, zds_hyper *hyper,
                     options_problem_fn problem, void *user);
/* The table as a JSON array, as zds_plugin_info shows it. The caller deletes it. */
struct cJSON *options_describe(const zds_plugin *plugin);

#endif
