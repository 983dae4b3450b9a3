/* mpirun and srun: the same options in their words, then exec. Their ranks are recognised by the
 * variables that they set. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/output.h"
#include "run.h"

enum { MAX_OWN = 8, NOT_FOUND = 127 };

/* Replaces this process by `own` followed by the command. */
static int execute(const char *const *own, const run_options *options)
{
    size_t words = 0, count = 0;
    while (options->command[words])
        words++;
    char **line = calloc(MAX_OWN + words + 1, sizeof *line);
    if (!line)
        return output_error("no memory");
    for (size_t i = 0; own[i]; i++)
        line[count++] = (char *)(uintptr_t)own[i];
    memcpy(line + count, options->command, words * sizeof *line);
    execvp(line[0], line);
    int error = errno;
    output_error("cannot run %s: %s; install it, or use --launcher local", own[0], strerror(error));
    free(line);
    return error == ENOENT ? NOT_FOUND : EXIT_FAILED;
}

/* Open MPI and the Hydra of MPICH differ in how lines are tagged. */
static bool is_open_mpi(void)
{
    char text[256] = "";
    FILE *f = popen("mpirun --version 2>/dev/null", "r");
    if (f) {
        size_t n = fread(text, 1, sizeof text - 1, f);
        text[n] = 0;
        pclose(f);
    }
    return strstr(text, "Open MPI") || strstr(text, "OpenRTE");
}

int launch_mpirun(const run_options *options)
{
    const char *own[MAX_OWN + 1] = {"mpirun"};
    char count[16];
    size_t n = 1;
    if (options->ranks) {
        snprintf(count, sizeof count, "%d", options->ranks);
        own[n++] = "-n";
        own[n++] = count;
    }
    if (options->bind != BIND_DEFAULT) {
        own[n++] = "--bind-to";
        own[n++] = options->bind == BIND_CORE   ? "core"
                   : options->bind == BIND_NUMA ? "numa"
                                                : "none";
    }
    if (options->tag_output)
        own[n++] = is_open_mpi() ? "--tag-output" : "--prepend-rank";
    return execute(own, options);
}

int launch_srun(const run_options *options)
{
    const char *own[MAX_OWN + 1] = {"srun"};
    char count[16];
    size_t n = 1;
    if (options->ranks) {
        snprintf(count, sizeof count, "%d", options->ranks);
        own[n++] = "-n";
        own[n++] = count;
    }
    if (options->bind != BIND_DEFAULT)
        own[n++] = options->bind == BIND_CORE   ? "--cpu-bind=cores"
                   : options->bind == BIND_NUMA ? "--cpu-bind=ldoms"
                                                : "--cpu-bind=none";
    if (options->tag_output)
        own[n++] = "--label";
    return execute(own, options);
}
