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
        ARGS_TRUST_PLUGINS,
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

int failed(const zds_error *error, bool json)
{
    const char *text = error->text ? error->text : "out of memory";
    problem_list all = {0};
    problems_add_error(&all, error);
    if (json)
        output_json(report_json(EXIT_FAILED, &all));
    else if (strncmp(text, "error: ", 7) == 0 || strstr(text, ": error: "))
        fprintf(stderr, "%s\n", text); /* has its place already */
    else
        output_error("%s", text);
    problems_release(&all);
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

cJSON *take_json(char *text)
{
    cJSON *tree = text ? cJSON_Parse(text) : NULL;
    free(text);
    return tree;
}
