/* How a thread computes, and which signals reach it and what they do: what a plugin leaves as it
 * was. */
#ifndef ZDS_PLUGIN_PROBE_WAYS_H
#define ZDS_PLUGIN_PROBE_WAYS_H

#include <stdbool.h>

enum { WAYS_SIGNALS = 32 };

typedef struct ways {
    int rounding;
    bool flushes;          /* takes the smallest numbers for zero */
    unsigned long blocked; /* signals, as bits */
    void (*handlers[WAYS_SIGNALS])(int);
} ways;

/* Of the calling thread. */
ways ways_now(void);
/* What is no longer as `before`, as a fault: "rounds otherwise". NULL: all is. */
char *ways_changed(const ways *before);

#endif
