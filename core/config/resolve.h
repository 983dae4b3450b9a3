/* From raw to resolved: "auto" filled from training arguments, and what contradicts them listed,
 * as transformers' HfTrainerDeepSpeedConfig does. */
#ifndef CORE_CONFIG_RESOLVE_H
#define CORE_CONFIG_RESOLVE_H

#include "config/internal.h"

/* Changes c->resolved. Without arguments nothing is filled. */
void config_resolve(zds_config *c, const zds_config_context *context);

#endif
