/* zds-bench: what this machine and zds reach, each in a unit that can be held against a rival. */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "common/exits.h"
#include "common/output.h"
#include "zds-bench/bench.h"
#include "zds/zds.h"

typedef struct measurement {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *doc;
} measurement;

static const measurement measurements[] = {
    {"stream", bench_stream, "memory bandwidth, also of the optimizer's mix of streams"},
    {"step", bench_step, "an optimizer step, beside the time its bytes need"},
    {"comm", bench_comm, "a collective operation between the ranks of zds-run"},
    {"train", bench_train, "training of a GPT-2: tokens a second, time to the first step, memory"},
    {"config", bench_config, "reading, resolving and checking a ds_config"},
};

double bench_pss_mib(pid_t pid)
{
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "Pss: %ld", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return (double)kib / 1024;
}

int bench_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static void usage(FILE *out)
{
    fprintf(out, "usage: zds-bench MEASUREMENT [options]\n\n");
    for (size_t i = 0; i < sizeof measurements / sizeof *measurements; i++)
        fprintf(out, "  %-8s %s\n", measurements[i].name, measurements[i].doc);
    fprintf(out, "\nzds-bench MEASUREMENT --help tells its options.\n");
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        usage(stdout);
        return output_end();
    }
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        printf("zds-bench %s\n", zds_version());
        return output_end();
    }
    for (size_t i = 0; argc > 1 && i < sizeof measurements / sizeof *measurements; i++)
        if (strcmp(argv[1], measurements[i].name) == 0) {
            exits_watch();
            return exits_done(measurements[i].run(argc - 1, argv + 1));
        }
    if (argc > 1)
        fprintf(stderr, "zds-bench: error: there is no measurement %s\n", argv[1]);
    usage(stderr);
    return EXIT_USAGE;
}
