/* Metrics of a run from a file, for schedules that follow them. */
#ifndef APPS_COMMON_METRICS_H
#define APPS_COMMON_METRICS_H

#include <stddef.h>

#include "zds/status.h"

/* A JSON array of numbers, and of nulls, which become NaN. The caller frees *values. */
zds_status metrics_read(const char *path, double **values, size_t *count, zds_error *error);

#endif
