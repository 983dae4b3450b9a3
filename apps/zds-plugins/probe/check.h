/* Holds a plugin against what its own descriptor and the header promise. */
#ifndef ZDS_PLUGIN_PROBE_CHECK_H
#define ZDS_PLUGIN_PROBE_CHECK_H

#include <stdio.h>

/* Prints a line of JSON for each check as it ends: {"plugin", "check", "status", "text"}. "plugin"
 * is "" for the file as a whole; "status" is "ok", "failed", "note" (passed, with a remark) or
 * "skipped"; "text" says why. */
void check_file(const char *path, FILE *out);

#endif
