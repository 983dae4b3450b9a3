/* Arguments that the ds_config leaves without effect. */
#ifndef ZDS_TRAIN_MOOT_H
#define ZDS_TRAIN_MOOT_H

#include "zds/config.h"

/* Warns on stderr of each of the config's training arguments that nothing reads, because the config
 * has a section of its own without "auto" for it. What the two disagree on is an error elsewhere.
 */
void print_moot_arguments(const zds_config *config);

#endif
