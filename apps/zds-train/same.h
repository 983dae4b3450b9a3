/* Whether all ranks run the same training: what the engine, which knows parameters and ds_config,
 * cannot see. */
#ifndef ZDS_TRAIN_SAME_H
#define ZDS_TRAIN_SAME_H

#include "config.h"
#include "data.h"
#include "zds/engine.h"

/* A collective; on every rank ZDS_ERR_DIVERGED if one of them has another model, text or course of
 * the run. */
zds_status same_on_all_ranks(zds_engine *engine, const gpt2_config *model, const dataset *data,
                             int64_t generate, zds_error *error);

#endif
