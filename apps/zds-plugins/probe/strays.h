/* Processes that a plugin leaves running, in whatever process group. */
#ifndef ZDS_PLUGIN_PROBE_STRAYS_H
#define ZDS_PLUGIN_PROBE_STRAYS_H

/* From now on orphans of this process's descendants become its children. */
void strays_adopt(void);
/* Ends all children of this process, and those that they leave. */
void strays_end(void);

#endif
