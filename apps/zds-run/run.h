/* What the files of zds-run share. */
#ifndef APPS_ZDS_RUN_RUN_H
#define APPS_ZDS_RUN_RUN_H

#include <hwloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { MAX_RANKS = 1024 };

typedef enum bind_mode { BIND_DEFAULT, BIND_CORE, BIND_NUMA, BIND_NONE } bind_mode;

typedef struct run_options {
    int ranks; /* 0: as many as there are cores */
    bind_mode bind;
    bool tag_output;
    char **command; /* PROGRAM ARGS..., NULL-ended */
} run_options;

/* Which processors this program may use. */
typedef struct machine {
    hwloc_topology_t topology;
    int cores, nodes;
} machine;

bool machine_open(machine *m);
void machine_close(machine *m);
/* In a child, before exec: binds it to rank's share. False if the system refuses. */
bool machine_bind(const machine *m, bind_mode mode, int rank, int ranks);

/* Lines of the ranks, each with its rank in front. */
typedef struct tagger tagger;
tagger *tagger_create(int ranks);
void tagger_destroy(tagger *t);
/* Pipes for rank's stdout and stderr; `ends`: the child's ends. */
bool tagger_open(tagger *t, int rank, int ends[2]);
size_t tagger_count(const tagger *t); /* how many descriptors tagger_poll fills in */
struct pollfd;
void tagger_poll(tagger *t, struct pollfd *fds);
void tagger_read(tagger *t); /* passes on what is there, without blocking */
void tagger_flush(tagger *t);

/* Starts the ranks here, waits for them, and returns the exit code. */
int launch_local(const run_options *options);
/* Become mpirun or srun. Return the exit code only if that fails. */
int launch_mpirun(const run_options *options);
int launch_srun(const run_options *options);

#endif
