/* zds-plugins --check FILE.so */
#ifndef ZDS_PLUGINS_CHECK_H
#define ZDS_PLUGINS_CHECK_H

#include <stdbool.h>

/* Checks a plugin's file in a child process and prints what came of each check. Returns the
 * program's exit code. */
int check_file(const char *path, bool json);

#endif
