/* The folder that the trained model goes to. */
#ifndef ZDS_TRAIN_SAVE_H
#define ZDS_TRAIN_SAVE_H

#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "params.h"
#include "zds/engine.h"

/* Makes the folder if it is not there, sees that it can be written, and refuses one that holds a
 * model unless `overwrite`. *made is for output_abandon, also after an error. */
zds_status output_prepare(const char *folder, bool overwrite, size_t *made, zds_error *error);
/* Removes the folders that output_prepare made, if they are empty. */
void output_abandon(const char *folder, size_t made);

/* Collective; rank 0 writes. config.json and model.safetensors as transformers loads them, in the
 * dtype of training; each file is replaced as a whole. */
zds_status output_save(zds_engine *engine, const char *folder, const gpt2_config *config,
                       const params *p, zds_error *error);

#endif
