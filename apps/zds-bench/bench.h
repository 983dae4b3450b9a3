/* The measurements of zds-bench; each gets the command line from its own name on, and returns an
 * exit code. */
#ifndef APPS_ZDS_BENCH_BENCH_H
#define APPS_ZDS_BENCH_BENCH_H

int bench_stream(int argc, char **argv);
int bench_step(int argc, char **argv);
int bench_comm(int argc, char **argv);
int bench_train(int argc, char **argv);
int bench_config(int argc, char **argv);

/* Processors that this process may use. */
int bench_cores(void);

#endif
