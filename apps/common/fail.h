/* Filling in a zds_error from a program, as the library does it. */
#ifndef APPS_COMMON_FAIL_H
#define APPS_COMMON_FAIL_H

#include "zds/engine.h"

/* Replaces the content of `error` (which may be NULL) and returns `status`. */
zds_status fail(zds_error *error, zds_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A failure of the program itself, with its text in `error`: the other ranks hear of it wherever
 * they wait. Does nothing without an engine, and where the engine knows of a failure. Returns
 * `status`.
 */
zds_status fail_tell(zds_engine *engine, zds_status status, const zds_error *error);

#endif
