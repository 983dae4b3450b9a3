/* How a thread computes, which signals reach it and what they do, and what else is one for the
 * whole process: what a plugin leaves as it was. */
#ifndef ZDS_PLUGIN_PROBE_WAYS_H
#define ZDS_PLUGIN_PROBE_WAYS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { WAYS_SIGNALS = 32 };

typedef struct ways {
    int rounding;
    bool flushes;          /* takes the smallest numbers for zero */
    unsigned long blocked; /* signals, as bits */
    void (*handlers[WAYS_SIGNALS])(int);
    mode_t mask;
    dev_t device; /* of the current folder */
    ino_t folder;
    uint64_t locale, variables; /* hashes of their texts */
} ways;

/* Of the calling thread. */
ways ways_now(void);
/* What is no longer as `before`, as a fault: "rounds otherwise". NULL: all is. */
char *ways_changed(const ways *before);

#endif
