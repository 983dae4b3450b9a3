/* Holds a plugin against what its own descriptor and table promise. */
#ifndef ZDS_PLUGIN_PROBE_CHECK_H
#define ZDS_PLUGIN_PROBE_CHECK_H

#include <stdio.h>

/* Prints a line of JSON before each check, {"plugin", "check", "status": "begun"}, and one with its
 * result after it: "status": "ok", "failed", "note" or "skipped", "text": why. So whoever reads
 * them knows which check a crash was in. */
void check_file(const char *path, FILE *out);

#endif
