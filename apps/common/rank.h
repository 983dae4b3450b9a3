/* Which rank this process is, before there is an engine to ask, and how ranks tell errors once. */
#ifndef APPS_COMMON_RANK_H
#define APPS_COMMON_RANK_H

#include <stdint.h>

#include "zds/status.h"

/* As the launcher says. */
int32_t rank_here(void);

/* Prints the error and returns the code to exit with: 3 for a mismatch, else 1. What fails on all
 * ranks alike is printed once: ranks other than 0 wait a moment before they speak, in which the
 * launcher ends them if the first has spoken; those that only heard of another's failure wait for
 * longer. Clears the error. */
int rank_failed(zds_error *error);

#endif
