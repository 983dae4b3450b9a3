/* The rank's threads: one pool, bound to cores, asleep outside engine work. */
#ifndef CORE_HOST_POOL_H
#define CORE_HOST_POOL_H

#include "zds/plugin.h"

typedef struct pool pool;

/* `threads`: with the calling thread; 0 means as many as this process may use when `local_world`
 * processes share the machine. The others are bound to cores of the process's own binding; the
 * calling thread is left as it is. */
zds_status pool_create(int32_t threads, int32_t local_world, pool **out, zds_error *error);
void pool_destroy(pool *p);

int32_t pool_threads(const pool *p);

/* Calls body(arg, i, thread) once for each i < n; `thread` < pool_threads. Each thread begins with
 * its own contiguous share of the indices, so that pages stay near the thread that touched them
 * first, and then helps the others. Called from inside a body it runs inline, on that thread. */
void pool_run(pool *p, size_t n, void (*body)(void *arg, size_t i, int32_t thread), void *arg);

#endif
