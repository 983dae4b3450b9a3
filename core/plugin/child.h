/* Runs a program with a time limit and takes what it prints, for work that may crash or hang. */
#ifndef CORE_PLUGIN_CHILD_H
#define CORE_PLUGIN_CHILD_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

/* A program that ends its output with an empty line has done its work; what it still does then is
 * cut off. */
#define CHILD_DONE "\n\n"

/* At the beginning of such a program: it ends with its parent, leaves no core file, and has its
 * stdout, in what is returned, for the answer alone: what a plugin prints goes to stderr. NULL
 * where that fails. */
FILE *child_begin(void);
/* At its end: nothing of the plugin runs after the answer is given. */
_Noreturn void child_done(FILE *out);

/* Runs argv[0] by fork and exec, in a process group of its own, which is killed in the end.
 * *output: what it printed, never NULL unless memory ends; the caller frees it. Returns NULL if the
 * output ended with CHILD_DONE; else how it ended instead ("crashed: Segmentation fault"), as
 * a fault. `quiet`: its stderr is dropped. */
char *child_run(char *const argv[], int limit_ms, bool quiet, char **output);

/* Ends a child that leads a process group, and that group. `closed`: it has closed its output, and
 * gets up to limit_ms to end by itself, so that its own way of ending is seen. Returns how it
 * ended, as a fault. */
char *child_finish(pid_t pid, bool closed, int limit_ms);

/* How long a plugin may take in a child: 10 s, or ZDS_PLUGIN_TIMEOUT of the environment. */
int child_limit_ms(void);

#endif
