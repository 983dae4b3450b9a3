/* The folder that the trained model goes to. */
#ifndef ZDS_TRAIN_SAVE_H
#define ZDS_TRAIN_SAVE_H

#include <stdbool.h>

#include "config.h"
#include "params.h"
#include "zds/engine.h"

/* Makes the folder if it is not there (*made says so), sees that it can be written, and refuses one
 * that holds a model unless `overwrite`. */
zds_status output_prepare(const char *folder, bool overwrite, bool *made, zds_error *error);

/* Collective; rank 0 writes. config.json and model.safetensors as transformers loads them, in the
 * dtype of training; each file is replaced as a whole. */
zds_status output_save(zds_engine *engine, const char *folder, const gpt2_config *config,
                       const params *p, zds_error *error);

#endif
