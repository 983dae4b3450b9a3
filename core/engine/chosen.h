/* The groups of zds.param_groups: which parameters each takes by name, and its hyperparameters. */
#ifndef CORE_ENGINE_CHOSEN_H
#define CORE_ENGINE_CHOSEN_H

#include <cjson/cJSON.h>
#include <math.h>

#include "engine/internal.h"

typedef struct chosen_group {
    const cJSON *patterns; /* a string or an array of them */
    zds_hyper hyper;       /* NaN where it keeps the optimizer's */
} chosen_group;

#define CHOSEN_NOTHING ((zds_hyper)ZDS_HYPER_NONE)

typedef struct chosen {
    size_t count;
    chosen_group *groups; /* [count] */
    uint32_t *of;         /* [params of the model]: its group, or `count` */
} chosen;

/* Reads them and hands out the model's parameters. ZDS_ERR_CONFIG: a hyperparameter that the
 * optimizer does not have, a pattern that matches nothing, a group that nothing is left for. */
zds_status chosen_create(zds_engine *e, chosen *c, zds_error *error);
void chosen_destroy(chosen *c);
/* Changes what `with` says, and returns that as ZDS_SCHED_ bits. */
uint32_t chosen_override(zds_hyper *hyper, const zds_hyper *with);

#endif
