/* Which processors a rank's threads get: of those that the launcher, taskset, a container or a
 * batch system allow, this rank's own or its share. */
#ifndef CORE_HOST_CORES_H
#define CORE_HOST_CORES_H

#include <hwloc.h>
#include <pthread.h>

#include "host/launch.h"

enum { CORES_MOST = 4096 }; /* threads */

/* What is known of the processors. */
typedef struct cores_facts {
    hwloc_topology_t topology;     /* of what the control group's cpuset allows */
    hwloc_const_cpuset_t process;  /* what this process may use */
    hwloc_const_cpuset_t caller;   /* what the calling thread may use */
    hwloc_const_cpuset_t launcher; /* NULL where it is not known */
    double limit;                  /* processors' worth of time that control groups grant */
    int32_t machine;               /* processors that there are, whoever may use them */
} cores_facts;

typedef struct cores {
    int32_t threads;
    hwloc_topology_t topology; /* NULL: nothing is to be bound */
    hwloc_cpuset_t *sets;      /* [threads]: where each belongs; [0] is the caller's, and advice */
    char *why;                 /* in words; NULL for one thread that was asked for */
    bool surprising; /* there are fewer than the machine, or what was asked for, lets expect */
} cores;

/* Chooses for `threads` (0: as many as cores), of local rank `local_rank` of `local_world`. False
 * without memory. The facts stay the caller's; out->topology is left NULL. */
bool cores_choose(cores *out, int32_t threads, int32_t local_rank, int32_t local_world,
                  const cores_facts *facts);
/* Likewise with the facts of this machine, which are read only where there is a choice: that takes
 * a millisecond. `l` NULL: this process is alone. */
bool cores_find(cores *out, int32_t threads, const launch *l);
void cores_release(cores *c);

/* Binds a thread that was started as number `i`. Where the system refuses, it runs anywhere. */
void cores_bind(const cores *c, int32_t i, pthread_t thread);

#endif
