/* Small files: read whole, written whole. */
#ifndef APPS_COMMON_FILES_H
#define APPS_COMMON_FILES_H

#include <stddef.h>

#include "zds/status.h"

/* At most `limit` bytes, with a NUL behind them; the caller frees *text. */
zds_status file_read(const char *path, size_t limit, char **text, size_t *size, zds_error *error);
/* The file that a new one at `path` replaces: itself, or what a link there leads to. What is there
 * and no regular file (a device, a pipe, a folder) is never replaced: an error. The caller frees
 * *target. */
zds_status file_target(const char *path, char **target, zds_error *error);
/* Under a temporary name, synced, then renamed. */
zds_status file_replace(const char *path, const char *text, size_t size, zds_error *error);
/* FOLDER/NAME; NULL if memory ends. The caller frees it. */
char *path_join(const char *folder, const char *name);

#endif
