/* What the core offers to a plugin's instance: log, errors, memory, threads, under the instance's
 * name. */
#ifndef CORE_MEMORY_SERVICES_H
#define CORE_MEMORY_SERVICES_H

#include <pthread.h>

#include "host/pool.h"
#include "memory/ledger.h"

typedef struct services {
    zds_host host; /* handed to the plugin */
    const char *name;
    int32_t rank;
    ledger *ledger;
    pool *threads;
    pthread_mutex_t lock;
    char *error; /* of the call in progress; the first one wins where several threads fail */
    bool alone;  /* parallel_for runs inline: no thread of the pool may be woken */
    void (*hear)(void *user, const char *warning); /* instead of the log; or NULL */
    void *hear_user;
} services;

void services_init(services *s, const char *name, int32_t rank, ledger *memory, pool *threads);
void services_destroy(services *s);

/* The text that the plugin set since the last call, or a stand-in. Valid until the plugin is called
 * again. */
const char *services_error(services *s);
void services_clear(services *s);

#endif
