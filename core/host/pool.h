/* The rank's threads: one pool, bound to cores, asleep outside engine work. */
#ifndef CORE_HOST_POOL_H
#define CORE_HOST_POOL_H

#include "host/launch.h"

typedef struct pool pool;

/* `threads`: with the calling thread; 0 means one for each core that `l` leaves to this rank
 * (see cores.h). The others are bound there; the calling thread is left as it is. NULL: this
 * process has its processors for itself. */
zds_status pool_create(int32_t threads, const launch *l, pool **out, zds_error *error);
void pool_destroy(pool *p); /* no run is on */
/* A line of the log says which processors were chosen and why: at level info where a limit, others,
 * or a binding gave less than one would expect, else at level debug. */
void pool_tell(const pool *p, int32_t rank);

int32_t pool_threads(const pool *p);

/* Calls body(arg, i, thread) once for each i < n; `thread` < pool_threads, and no two bodies have
 * the same at once. Each thread begins with its own contiguous share of the indices, so that pages
 * stay near the thread that touched them first, and then helps the others.
 *
 * Runs that several threads of the program ask for come one after the other; who waits sleeps.
 * Called from inside a body of the same pool it runs inline, under that body's `thread`. A body may
 * run on another pool; pools that do so to each other wait for ever, as with locks taken in two
 * orders. */
void pool_run(pool *p, size_t n, void (*body)(void *arg, size_t i, int32_t thread), void *arg);

/* From the next run on, the thread that called pool_run calls tick(arg) after each body that it has
 * run itself: for what has to move while others compute. NULL: nothing. It is never called from two
 * threads at once, and may call pool_run, which is then inline. Waits for a run that is on; not to
 * be called from inside one. */
void pool_tick_set(pool *p, void (*tick)(void *arg), void *arg);

#endif
