/* Events of the host's, for a plugin's call to wait for. */
#ifndef ZDS_PLUGIN_PROBE_LATE_H
#define ZDS_PLUGIN_PROBE_LATE_H

#include <pthread.h>
#include <stdbool.h>

#include "zds/types.h"

/* An event that is done once it was waited for, and then has changed what it is in the way of; of
 * any thread. */
typedef struct late_event {
    zds_event base;
    void (*work)(void *arg); /* may be NULL */
    void *arg;
    pthread_mutex_t lock;
    zds_status status; /* its own end */
    bool done;
} late_event;

void late_init(late_event *late, void (*work)(void *arg), void *arg);

#endif
