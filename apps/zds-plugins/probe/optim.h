/* The checks of an optimizer that compare several runs (optim_runs.c, optim_honest.c,
 * optim_ranks.c), for its table (optim.c). */
#ifndef ZDS_PLUGIN_PROBE_OPTIM_H
#define ZDS_PLUGIN_PROBE_OPTIM_H

#include "bench.h"

extern const maker optim_maker;

char *optim_plain_step(bench *b);
char *optim_heeds_inputs(bench *b);
char *optim_repeats(bench *b);
char *optim_keeps_nothing(bench *b);
char *optim_follows_hyper(bench *b);
char *optim_ranks(bench *b);
char *optim_tiling(bench *b);
char *optim_threads(bench *b);
char *optim_instances(bench *b);
char *optim_reload(bench *b);
char *optim_poison(bench *b);
char *optim_bounds(bench *b);
char *optim_allocations(bench *b);
char *optim_collective(bench *b);
char *optim_collective_ranks(bench *b);
char *optim_leaks(bench *b);

#endif
