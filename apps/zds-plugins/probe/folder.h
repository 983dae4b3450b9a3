/* The folder of a check, where plugins may leave files: made and removed by the process that
 * survives them. */
#ifndef ZDS_PLUGIN_PROBE_FOLDER_H
#define ZDS_PLUGIN_PROBE_FOLDER_H

#include <stdbool.h>

/* In TMPDIR, or /tmp. */
void folder_make(void);
/* With all that is in it. */
void folder_remove(void);
/* A new folder within it, which the caller frees; NULL if none could be made. */
char *folder_within(void);

#endif
