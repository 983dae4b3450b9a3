/* A sample of what the model has learnt. */
#ifndef ZDS_TRAIN_GENERATE_H
#define ZDS_TRAIN_GENERATE_H

#include <stdbool.h>

#include "bridge.h"

/* Collective. Continues the beginning of the training text by `count` tokens, drawn with
 * temperature 0.8; rank 0 prints both on stdout: as text where tokens are bytes, else as ids. */
zds_status generate(bridge *b, int64_t count, uint32_t vocabulary, bool bytes, zds_error *error);

#endif
