/* zds-run: starts the ranks of a program on this machine, or hands them to mpirun or srun. */
#include <string.h>

#include "common/args.h"
#include "common/output.h"
#include "run.h"

static bool parse_bind(const char *text, bind_mode *mode)
{
    static const struct {
        const char *name;
        bind_mode mode;
    } modes[] = {{"core", BIND_CORE}, {"numa", BIND_NUMA}, {"none", BIND_NONE}};
    *mode = BIND_DEFAULT;
    for (size_t i = 0; text && i < sizeof modes / sizeof *modes; i++)
        if (strcmp(text, modes[i].name) == 0)
            *mode = modes[i].mode;
    return !text || *mode != BIND_DEFAULT;
}

int main(int argc, char **argv)
{
    int64_t ranks = 0;
    const char *bind = NULL, *launcher = "local";
    run_options run = {0};
    args_option options[] = {
        {.name = "n",
         .type = ARGS_INT,
         .value = &ranks,
         .meta = "N",
         .doc = "how many ranks; one a core if not given"},
        {.name = "bind",
         .type = ARGS_STRING,
         .value = &bind,
         .meta = "core|numa|none",
         .doc = "what each rank is bound to: its share of the cores (the default where there is a"
                " core for each), its NUMA node, or nothing"},
        {.name = "tag-output",
         .type = ARGS_FLAG,
         .value = &run.tag_output,
         .doc = "put the rank in front of each line"},
        {.name = "launcher",
         .type = ARGS_STRING,
         .value = &launcher,
         .meta = "local|mpirun|srun",
         .doc = "who starts the ranks; mpirun and srun reach other nodes"},
    };
    const args_program program = {
        .usage = "[options] PROGRAM ARGS...",
        .doc = "Runs PROGRAM as several ranks, with RANK, WORLD_SIZE, LOCAL_RANK,"
               " LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT set. When one fails, the others are"
               " ended, and its exit code is returned (128 + n for signal n).",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .min_words = 1,
        .max_words = SIZE_MAX,
        .stop_at_word = true};
    args_words words;
    int code = args_parse(&program, argc, argv, &words);
    if (code != ARGS_GO)
        return code;
    if (options[0].given && (ranks < 1 || ranks > MAX_RANKS))
        return args_wrong("-n: %lld ranks; it must be 1 to %d", (long long)ranks, MAX_RANKS);
    if (!parse_bind(bind, &run.bind))
        return args_wrong("--bind: \"%s\" is not core, numa or none", bind);
    run.ranks = (int)ranks;
    run.command = words.word;
    if (strcmp(launcher, "local") == 0)
        return launch_local(&run);
    if (strcmp(launcher, "mpirun") == 0)
        return launch_mpirun(&run);
    if (strcmp(launcher, "srun") == 0)
        return launch_srun(&run);
    return args_wrong("--launcher: \"%s\" is not local, mpirun or srun", launcher);
}
