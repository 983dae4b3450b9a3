/* What a run knows beside its config, from the command line; loading with it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/output.h"

void context_options(context_args *args, args_option *rows)
{
    const args_option all[CONTEXT_OPTIONS] = {
        {.name = "args",
         .type = ARGS_STRING,
         .value = &args->arguments,
         .meta = "ARGS.json",
         .doc = "fields of TrainingArguments; without it, or for a field that is absent, \"auto\" "
                "is filled with the default, and nothing mismatches"},
        {.name = "world-size",
         .type = ARGS_INT,
         .value = &args->world_size,
         .meta = "N",
         .doc = "ranks of the run (1)"},
        {.name = "hidden-size",
         .type = ARGS_INT,
         .value = &args->hidden_size,
         .meta = "H",
         .doc = "of the model; its largest, if it has several"},
        {.name = "num-training-steps",
         .type = ARGS_INT,
         .value = &args->num_training_steps,
         .meta = "S",
         .doc = "optimizer steps of the run"},
        {.name = "auto-find-batch-size",
         .type = ARGS_FLAG,
         .value = &args->auto_find_batch_size,
         .doc = "batch sizes may differ from the arguments"},
    };
    memcpy(rows, all, sizeof all);
    args->rows = rows;
}

int context_read(context_args *args)
{
    for (size_t i = 0; args->rows && i < CONTEXT_OPTIONS; i++) {
        const args_option *row = &args->rows[i];
        int64_t most = row->value == &args->world_size ? INT32_MAX : INT64_MAX;
        int64_t x = row->given && row->type == ARGS_INT ? *(int64_t *)row->value : 1;
        if (x < 1 || x > most)
            return args_wrong("--%s is from 1 to %lld, not %lld", row->name, (long long)most,
                              (long long)x);
    }
    args->context = (zds_config_context){
        .struct_size = sizeof args->context,
        .world_size = (int32_t)args->world_size,
        .hidden_size = args->hidden_size,
        .num_training_steps = args->num_training_steps,
        .auto_find_batch_size = args->auto_find_batch_size,
        .arguments_source = args->arguments ? args->arguments : "{}",
    };
    return ARGS_GO;
}

cJSON *problem_json(const zds_problem *problem)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddStringToObject(row, "severity",
                            problem->severity == ZDS_PROBLEM_WARNING ? "warning" : "error");
    cJSON_AddStringToObject(row, "path", problem->path);
    cJSON_AddStringToObject(row, "message", problem->message);
    cJSON_AddStringToObject(row, "file", problem->file);
    cJSON_AddNumberToObject(row, "line", problem->line);
    cJSON_AddNumberToObject(row, "column", problem->column);
    return row;
}

/* Takes "name:line:col: error: what" apart, as zds_config_load puts it together; the caller frees
 * *file. */
static zds_problem take_apart(const char *text, char **file)
{
    zds_problem problem = {.path = "", .message = text, .file = ""};
    const char *mark = strstr(text, ": error: ");
    if (!mark)
        return problem;
    const char *p = mark;
    int colons = 0;
    while (p > text && colons < 2)
        colons += *--p == ':';
    if (colons == 2 && sscanf(p, ":%d:%d", &problem.line, &problem.column) == 2 &&
        (*file = strndup(text, (size_t)(p - text))) != NULL) {
        problem.message = mark + strlen(": error: ");
        problem.file = *file;
    }
    return problem;
}

int failed(const zds_error *error, bool json)
{
    const char *text = error->text ? error->text : "out of memory";
    if (!json && error->status == ZDS_ERR_FORMAT)
        fprintf(stderr, "%s\n", text); /* has its place already */
    else if (!json)
        output_error("%s", text);
    if (!json)
        return EXIT_FAILED;
    char *file = NULL;
    const zds_problem problem = take_apart(text, &file);
    cJSON *out = cJSON_CreateObject();
    cJSON_AddStringToObject(out, "status", "error");
    cJSON_AddItemToArray(cJSON_AddArrayToObject(out, "errors"), problem_json(&problem));
    cJSON_AddItemToArray(cJSON_AddArrayToObject(out, "problems"), problem_json(&problem));
    free(file);
    output_json(out);
    return EXIT_FAILED;
}

zds_config *load_config(const char *file, context_args *args, bool json)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_config_load(file, &args->context, &config, &error);
    if (!config)
        failed(&error, json);
    zds_error_clear(&error);
    return config;
}
