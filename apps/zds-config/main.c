/* zds-config: a ds_config checked, resolved and explained. */
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "common/exits.h"
#include "common/output.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"check", command_check}, {"resolve", command_resolve},   {"effective", command_effective},
    {"get", command_get},     {"explain", command_explain},   {"schema", command_schema},
    {"docs", command_docs},   {"schedule", command_schedule}, {"estimate", command_estimate},
};

int main(int argc, char **argv)
{
    const args_program program = {
        .usage = "check FILE [ctx] [--json]\n"
                 "resolve FILE [ctx] [--json]\n"
                 "effective FILE [ctx] [--json]\n"
                 "get FILE KEY [ctx] [--json]\n"
                 "explain KEY [FILE [ctx]] [--json]\n"
                 "schedule FILE [ctx] --steps N [--json | --plot] [--svg FILE]\n"
                 "estimate (FOLDER | --params N) [options]\n"
                 "schema\n"
                 "docs",
        .doc = "Checks, resolves and explains a ds_config. FILE is a path, JSON text, or base64 of "
               "JSON text.\n[ctx]: --args ARGS.json --world-size N --hidden-size H "
               "--num-training-steps S --auto-find-batch-size\nCOMMAND --help says more.",
        .min_words = 1,
        .max_words = 1,
    };
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0) {
            exits_watch();
            return exits_done(commands[i].run(argc - 1, argv + 1));
        }
    if (argc > 1 && argv[1][0] != '-')
        return args_wrong("there is no command %s", argv[1]);
    int code = args_parse(&program, argc, argv, NULL);
    return code == ARGS_GO ? EXIT_USAGE : code;
}
