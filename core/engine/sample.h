/* An engine of nothing but a small model with something of every kind of parameter: what a config
 * and a program decide is seen in it before there is their model. What is refused stays in its
 * `found`. */
#ifndef CORE_ENGINE_SAMPLE_H
#define CORE_ENGINE_SAMPLE_H

#include "engine/internal.h"

/* As of a run in fp32 at stage 0, of as many ranks as the config was loaded for. NULL: no memory.
 * zds_engine_destroy ends it. */
zds_engine *sample_create(const zds_config *config, const zds_engine_options *options);
/* plugins_open_sched of a model in which zds.param_groups may leave no other parameters. */
zds_status sample_open_sched(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* The group of hyperparameters of a matrix that no group of zds.param_groups takes; where there is
 * none, the last. */
uint32_t sample_hyper(const zds_engine *e);

#endif
