/* The commands of zds-config, and the context that most of them share. */
#ifndef APPS_ZDS_CONFIG_COMMAND_H
#define APPS_ZDS_CONFIG_COMMAND_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "common/args.h"
#include "zds/zds.h"

/* [ctx]: what a run knows beside the file. */
typedef struct context_args {
    const char *arguments; /* path of ARGS.json; NULL: none */
    int64_t world_size, hidden_size, num_training_steps;
    bool auto_find_batch_size;
    const args_option *rows; /* of these */
    zds_config_context context;
} context_args;

enum { CONTEXT_OPTIONS = 6 };

/* Writes CONTEXT_OPTIONS rows that fill `args`. */
void context_options(context_args *args, args_option *rows);
/* After parsing. Returns ARGS_GO or an exit code. */
int context_read(context_args *args);

/* Tells why a command failed, on stderr, or with `json` on stdout as {"status": "error", "errors":
 * [..], "problems": [..]}, with the same one in both. Returns EXIT_FAILED. */
int failed(const zds_error *error, bool json);
/* Loads FILE with this context. NULL where the file cannot be read, after `failed`. */
zds_config *load_config(const char *file, context_args *args, bool json);

/* What a program with the config's training arguments would choose. */
typedef struct choices {
    zds_engine_options options; /* point to these: */
    char *optimizer, *schedule;
    cJSON *arguments;
} choices;

/* `steps` of the run; 0: as max_steps says, or not known. */
void choices_read(const zds_config *config, int64_t steps, choices *p);
void choices_release(choices *p);

/* Problems in the order of their places. */
typedef struct problem_list {
    zds_problem *list;
    size_t count, space;
    bool failed; /* out of memory: some are missing */
} problem_list;

/* Those of the config. */
void problems_of_config(const zds_config *config, problem_list *all);
/* And what an engine would refuse of it in a run of `steps`. */
void problems_of_engine(const zds_config *config, int64_t steps, problem_list *all);
/* And what an error says, a problem a line. */
void problems_add_error(problem_list *all, const zds_error *error);
void problems_release(problem_list *all);
/* "file:line:col: WHAT: path: message" on stderr. */
void problem_tell(const zds_problem *p, const char *what);
/* EXIT_DONE: no errors; EXIT_MISMATCH: only differences between the file and the training
 * arguments. */
int problems_code(const zds_config *config, const problem_list *all);
/* Tells the errors of the config; returns their code. */
int tell_problems(const zds_config *config);

/* {"severity", "path", "message", "file", "line", "column"} */
cJSON *problem_json(const zds_problem *problem);
/* {"status": "ok" | "error" | "mismatch", "errors": [..], "problems": [..]} for an exit code; the
 * problems are all, warnings too. */
cJSON *report_json(int code, const problem_list *all);

/* The tree of JSON text that the library gave, which is freed; NULL for NULL. The caller deletes
 * it. */
cJSON *take_json(char *text);

/* There is no such key: ZDS_ERR_NOT_FOUND, with the one that is nearest. */
zds_status no_key(const char *path, zds_error *error);

/* One for each command: argv[0] is the command's name. */
int command_check(int argc, char **argv);
int command_resolve(int argc, char **argv);
int command_effective(int argc, char **argv);
int command_get(int argc, char **argv);
int command_explain(int argc, char **argv);
int command_schema(int argc, char **argv);
int command_docs(int argc, char **argv);
int command_estimate(int argc, char **argv);
int command_schedule(int argc, char **argv);

#endif
