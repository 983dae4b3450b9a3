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
}

cJSON *read_json(const char *path)
{
    enum { MOST = 16 << 20 };
    FILE *in = fopen(path, "rbe");
    char *text = in ? malloc(MOST + 1) : NULL;
    size_t length = text ? fread(text, 1, MOST, in) : 0;
    cJSON *tree = NULL;
    if (!in) {
        output_error("%s: %m", path);
    } else if (!text || ferror(in) || !feof(in)) {
        output_error("%s: cannot be read, or is longer than 16 MiB", path);
    } else {
        text[length] = '\0';
        tree = cJSON_ParseWithLength(text, length);
        if (!cJSON_IsObject(tree)) {
            cJSON_Delete(tree);
            tree = NULL;
            output_error("%s: not a JSON object", path);
        }
    }
    free(text);
    if (in)
        fclose(in);
    return tree;
}

int context_read(context_args *args)
{
    if (args->world_size < 0 || args->world_size > INT32_MAX || args->hidden_size < 0 ||
        args->num_training_steps < 0)
        return args_wrong("--world-size, --hidden-size and --num-training-steps are not negative");
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
    cJSON_AddStringToObject(row, "path", problem->path);
    cJSON_AddStringToObject(row, "message", problem->message);
    cJSON_AddStringToObject(row, "file", problem->file);
    cJSON_AddNumberToObject(row, "line", problem->line);
    cJSON_AddNumberToObject(row, "column", problem->column);
    return row;
}

/* Takes "name:line:col: error: what" apart, as zds_config_load puts it together. */
static void print_unreadable(const char *text)
{
    zds_problem problem = {.path = "", .message = text, .file = ""};
    const char *mark = strstr(text, ": error: ");
    char *file = NULL;
    if (mark) {
        const char *p = mark;
        int colons = 0;
        while (p > text && colons < 2)
            colons += *--p == ':';
        if (colons == 2 && sscanf(p, ":%d:%d", &problem.line, &problem.column) == 2 &&
            (file = strndup(text, (size_t)(p - text))) != NULL) {
            problem.message = mark + strlen(": error: ");
            problem.file = file;
        }
    }
    cJSON *out = cJSON_CreateObject(), *errors = cJSON_AddArrayToObject(out, "errors");
    cJSON_AddStringToObject(out, "status", "error");
    cJSON_AddItemToArray(errors, problem_json(&problem));
    free(file);
    output_json(out);
}

zds_config *load_config(const char *file, context_args *args, bool json)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_config_load(file, &args->context, &config, &error);
    if (!config) {
        const char *text = error.text ? error.text : "out of memory";
        if (json)
            print_unreadable(text);
        else if (error.status == ZDS_ERR_FORMAT)
            fprintf(stderr, "%s\n", text); /* has its place already */
        else
            output_error("%s", text);
    }
    zds_error_clear(&error);
    return config;
}
