/* Command lines from a table: one row an option; parsing, "given or not" and --help come from it.
 *
 *     bool json = false;
 *     int64_t steps = 0;
 *     args_option options[] = {
 *         {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"},
 *         {.name = "steps", .type = ARGS_INT, .value = &steps, .meta = "N", .doc = "how many"}};
 *     const args_program program = {.usage = "FILE [options]", .doc = "Does a thing.",
 *         .options = options, .option_count = sizeof options / sizeof *options, .max_words = 1};
 *     args_words words;
 *     int code = args_parse(&program, argc, argv, &words);
 *     if (code != ARGS_GO)
 *         return code;
 *
 * --help and --version are always there. `--name value` and `--name=value` are the same, and so are
 * - and _ inside a name. "--" ends the options. */
#ifndef APPS_COMMON_ARGS_H
#define APPS_COMMON_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum args_type {
    ARGS_FLAG,   /* bool: --name; also --name=true and --name=false, and, as the Trainer's flags are
                    written, `--name True` or `--name False` */
    ARGS_STRING, /* const char *, points into argv */
    ARGS_INT,    /* int64_t */
    ARGS_COUNT,  /* int64_t, not negative: 64Mi, 1.5G, 7e9; units k, M, G, T, Ki, Mi, Gi, Ti, and B,
                    a billion */
    ARGS_BYTES,  /* the same of bytes: 40GiB, 500MB, 1.5G */
    ARGS_FLOAT   /* double, finite */
} args_type;

typedef struct args_option {
    const char *name; /* without dashes; a one-letter name is given as -n */
    void *value;      /* left alone when the option is not given: it comes with the default */
    const char *meta; /* what --help calls the value; NULL for a flag */
    const char *doc;  /* one line; NULL keeps the row out of --help */
    args_type type;
    bool given; /* out */
} args_option;

typedef struct args_program {
    const char *usage; /* what follows the program's name in the usage lines; '\n' starts another */
    const char *doc;   /* what it does: a sentence or two */
    args_option *options;
    size_t option_count;
    size_t min_words, max_words; /* of arguments that are no options */
    bool stop_at_word; /* the first such argument ends the options (zds-run PROGRAM ...) */
} args_program;

/* Arguments that are no options, in order; they point into argv, which args_parse reorders. With
 * stop_at_word they are followed by NULL, fit for exec. */
typedef struct args_words {
    size_t count;
    char **word;
} args_words;

enum { ARGS_GO = -1 };

/* --trust_plugins, a row of programs that read a config: args_parse sets ZDS_TRUST_PLUGINS, for
 * this process and those that it starts. */
extern bool args_trust;
#define ARGS_TRUST_PLUGINS                                                                         \
    {                                                                                              \
        .name = "trust_plugins", .type = ARGS_FLAG, .value = &args_trust,                          \
        .doc =                                                                                     \
            "open plugins at paths and in folders that the config names: their code runs as yours" \
    }

/* Returns ARGS_GO, or the code to exit with: 0 after --help or --version, 2 after telling stderr
 * what is wrong with the command line. `words` may be NULL if there are none. */
int args_parse(const args_program *program, int argc, char **argv, args_words *words);

/* Says on stderr that the command line is wrong, in the program's name, and returns 2. */
int args_wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
