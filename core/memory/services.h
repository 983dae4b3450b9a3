/* What the core offers to a plugin's instance: log, errors, memory, threads, under the instance's
 * name. */
#ifndef CORE_MEMORY_SERVICES_H
#define CORE_MEMORY_SERVICES_H

#include <pthread.h>

#include "host/pool.h"
#include "memory/ledger.h"

typedef struct device_memory device_memory;

typedef struct services {
    zds_host host; /* handed to the plugin */
    const char *name;
    int32_t rank;
    ledger *ledger;
    pool *threads;
    /* Where the instance computes, if that is a device; NULL: on the host. */
    struct tier *tier;
    zds_device device;
    device_memory *device_memory; /* what it has there */
    pthread_mutex_t lock;         /* of that and of `error` */
    char *error; /* of the call in progress; the first one wins where several threads fail */
    bool alone;  /* parallel_for runs inline: no thread of the pool may be woken */
    void (*hear)(void *user, const char *warning); /* instead of the log; or NULL */
    void *hear_user;
} services;

void services_init(services *s, const char *name, int32_t rank, ledger *memory, pool *threads);
/* The instance computes on the device of a tier, which outlives the services; for a plan the device
 * is the one that it would be. */
void services_on(services *s, struct tier *memory, zds_device device);
void services_destroy(services *s); /* frees what it has on the device and did not give back */

/* The text that the plugin set since the last call, or a stand-in. Valid until the plugin is called
 * again. */
const char *services_error(services *s);
void services_clear(services *s);

#endif
