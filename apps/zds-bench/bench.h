/* The measurements of zds-bench; each gets the command line from its own name on, and returns an
 * exit code. */
#ifndef APPS_ZDS_BENCH_BENCH_H
#define APPS_ZDS_BENCH_BENCH_H

#include <sys/types.h>

int bench_stream(int argc, char **argv);
int bench_step(int argc, char **argv);
int bench_comm(int argc, char **argv);
int bench_train(int argc, char **argv);
int bench_config(int argc, char **argv);

/* Processors that this process may use. */
int bench_cores(void);

/* The proportional memory of a process in MiB: a page that n processes map is 1/n of a page to each
 * of them. 0 if it is gone. */
double bench_pss_mib(pid_t pid);

#endif
