/* Opens a plugin's file in a child process, so that one that crashes or hangs harms nobody. */
#ifndef CORE_PLUGIN_PROBE_H
#define CORE_PLUGIN_PROBE_H

struct cJSON;

/* The file's facts, as descriptor_facts makes them; the caller deletes them. NULL if it cannot be
 * used: *reason says why, as a fault. `install`: what place_install says. */
struct cJSON *probe_file(const char *install, const char *path, char **reason);
#endif
