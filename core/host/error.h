/* Filling in the caller's zds_error. */
#ifndef CORE_HOST_ERROR_H
#define CORE_HOST_ERROR_H

#include <stdarg.h>

#include "zds/plugin.h"

/* Replaces the content of `error` (which may be NULL) and returns `status`. */
zds_status error_set(zds_error *error, zds_status status, const char *format, ...) ZDS_PRINTF(3, 4);
zds_status error_setv(zds_error *error, zds_status status, const char *format, va_list args);

/* A malloc'ed formatted string, or NULL. */
char *text_format(const char *format, ...) ZDS_PRINTF(1, 2);
char *text_formatv(const char *format, va_list args);
/* Appends to a list in words, after `separator` unless it is the first. Without memory the list
 * stays as it is. */
void text_append(char **list, const char *separator, const char *format, ...) ZDS_PRINTF(3, 4);

/* What failed last in an object that several files work on, and whether anything but its end may
 * follow. */
typedef struct failure {
    char *text; /* NULL: nothing yet */
    bool broken;
} failure;
/* Replaces the text; returns status. */
zds_status failure_set(failure *f, zds_status status, const char *format, ...) ZDS_PRINTF(3, 4);
void failure_clear(failure *f); /* the text alone */

#endif
