/* The command line of zds-train. */
#include "options.h"

#include <cjson/cJSON.h>
#include <string.h>

#include "common/args.h"
#include "common/output.h"

/* Copies what was given into o->arguments. */
static bool note_arguments(options *o, const args_option *rows, size_t count)
{
    cJSON *given = cJSON_CreateObject();
    bool good = given != NULL;
    for (size_t i = 0; i < count && good; i++) {
        const args_option *row = &rows[i];
        cJSON *value = NULL;
        if (!row->given)
            continue;
        switch (row->type) {
        case ARGS_FLAG:
            value = cJSON_CreateBool(*(const bool *)row->value);
            break;
        case ARGS_INT:
        case ARGS_COUNT:
        case ARGS_BYTES:
            value = cJSON_CreateNumber((double)*(const int64_t *)row->value);
            break;
        case ARGS_FLOAT:
            value = cJSON_CreateNumber(*(const double *)row->value);
            break;
        case ARGS_STRING: /* JSON where TrainingArguments wants a dictionary */
            value = strcmp(row->name, "lr_scheduler_kwargs") == 0
                        ? cJSON_Parse(*(const char *const *)row->value)
                        : cJSON_CreateString(*(const char *const *)row->value);
            break;
        }
        good = value && cJSON_AddItemToObject(given, row->name, value);
        if (!good)
            cJSON_Delete(value);
    }
    o->arguments = good ? cJSON_PrintUnformatted(given) : NULL;
    cJSON_Delete(given);
    return o->arguments;
}

static int check(const options *o)
{
    if (!o->model == !o->fresh)
        return args_wrong("give one of --model_name_or_path and --config_name");
    if (!o->text || !o->deepspeed || !o->output)
        return args_wrong("--%s is required", !o->text        ? "train_file"
                                              : !o->deepspeed ? "deepspeed"
                                                              : "output_dir");
    if (strcmp(o->data_order, "sequential") != 0 && strcmp(o->data_order, "shuffle") != 0)
        return args_wrong("--data_order wants sequential or shuffle, not \"%s\"", o->data_order);
    if (o->token_dtype && strcmp(o->token_dtype, "u8") != 0 && strcmp(o->token_dtype, "u16") != 0 &&
        strcmp(o->token_dtype, "u32") != 0)
        return args_wrong("--token_dtype wants u8, u16 or u32, not \"%s\"", o->token_dtype);
    if (o->max_steps == 0 || o->max_steps < -1)
        return args_wrong("--max_steps wants a number above 0, or -1 for whole epochs");
    if (!(o->epochs > 0))
        return args_wrong("--num_train_epochs wants a number above 0");
    if (o->warmup_steps < 0 || o->warmup_ratio < 0 || o->warmup_ratio > 1)
        return args_wrong("--warmup_steps is from 0, --warmup_ratio from 0 to 1");
    if (o->logging_steps < 1)
        return args_wrong("--logging_steps wants a number above 0");
    if (o->seed < 0)
        return args_wrong("--seed wants a number from 0");
    if (o->schedule_params) {
        cJSON *tree = cJSON_Parse(o->schedule_params);
        bool object = cJSON_IsObject(tree);
        cJSON_Delete(tree);
        if (!object)
            return args_wrong("--lr_scheduler_kwargs wants a JSON object, not \"%s\"",
                              o->schedule_params);
        if (!o->schedule)
            return args_wrong("--lr_scheduler_kwargs needs --lr_scheduler_type");
    }
    return ARGS_GO;
}

int options_parse(int argc, char **argv, options *o)
{
    *o = (options){.data_order = "shuffle",
                   .seed = 42,
                   .logging_steps = 10,
                   .max_steps = -1,
                   .epochs = 3,
                   .learning_rate = 5e-5,
                   .beta1 = 0.9,
                   .beta2 = 0.999,
                   .epsilon = 1e-8};
    /* Read by the ds_config alone: what is given fills "auto", and must match what is written. */
    int64_t micro_batch = 0, accumulation = 0;
    double max_grad_norm = 0;
    bool bf16 = false, fp16 = false;
    args_option rows[] = {
        {.name = "model_name_or_path",
         .type = ARGS_STRING,
         .value = &o->model,
         .meta = "DIR",
         .doc = "start from this model (config.json, model.safetensors)"},
        {.name = "config_name",
         .type = ARGS_STRING,
         .value = &o->fresh,
         .meta = "CONFIG.json",
         .doc = "start from random weights"},
        {.name = "train_file",
         .type = ARGS_STRING,
         .value = &o->text,
         .meta = "FILE",
         .doc = "text as bytes, or tokens (see --token_dtype)"},
        {.name = "deepspeed",
         .type = ARGS_STRING,
         .value = &o->deepspeed,
         .meta = "CONFIG",
         .doc = "the ds_config: a path, JSON text or base64"},
        ARGS_TRUST_PLUGINS,
        {.name = "output_dir",
         .type = ARGS_STRING,
         .value = &o->output,
         .meta = "DIR",
         .doc = "gets config.json, model.safetensors, metrics.jsonl"},
        {.name = "overwrite_output_dir",
         .type = ARGS_FLAG,
         .value = &o->overwrite,
         .doc = "even if it holds a model"},
        {.name = "block_size",
         .type = ARGS_INT,
         .value = &o->block_size,
         .meta = "N",
         .doc = "positions in a row; default: n_positions, at most 1024"},
        {.name = "data_order",
         .type = ARGS_STRING,
         .value = &o->data_order,
         .meta = "ORDER",
         .doc = "shuffle (default): epochs of shuffled blocks; sequential"},
        {.name = "token_dtype",
         .type = ARGS_STRING,
         .value = &o->token_dtype,
         .meta = "TYPE",
         .doc = "the file is an array of token ids: u8, u16 or u32"},
        {.name = "generate",
         .type = ARGS_COUNT,
         .value = &o->generate,
         .meta = "N",
         .doc = "at the end print N tokens that the model makes"},
        {.name = "seed",
         .type = ARGS_INT,
         .value = &o->seed,
         .meta = "N",
         .doc = "of weights, order, dropout, generation; default 42"},
        {.name = "max_steps",
         .type = ARGS_INT,
         .value = &o->max_steps,
         .meta = "N",
         .doc = "optimizer steps; overrides --num_train_epochs"},
        {.name = "num_train_epochs",
         .type = ARGS_FLOAT,
         .value = &o->epochs,
         .meta = "X",
         .doc = "default 3"},
        {.name = "logging_steps",
         .type = ARGS_INT,
         .value = &o->logging_steps,
         .meta = "N",
         .doc = "a line each N steps where stderr is no terminal; default 10"},
        {.name = "per_device_train_batch_size",
         .type = ARGS_INT,
         .value = &micro_batch,
         .meta = "N",
         .doc = "micro batch of a rank"},
        {.name = "gradient_accumulation_steps",
         .type = ARGS_INT,
         .value = &accumulation,
         .meta = "N",
         .doc = "micro steps in a step"},
        {.name = "learning_rate",
         .type = ARGS_FLOAT,
         .value = &o->learning_rate,
         .meta = "X",
         .doc = "default 5e-5"},
        {.name = "weight_decay",
         .type = ARGS_FLOAT,
         .value = &o->weight_decay,
         .meta = "X",
         .doc = "default 0; not of biases and norms"},
        {.name = "adam_beta1",
         .type = ARGS_FLOAT,
         .value = &o->beta1,
         .meta = "X",
         .doc = "default 0.9"},
        {.name = "adam_beta2",
         .type = ARGS_FLOAT,
         .value = &o->beta2,
         .meta = "X",
         .doc = "default 0.999"},
        {.name = "adam_epsilon",
         .type = ARGS_FLOAT,
         .value = &o->epsilon,
         .meta = "X",
         .doc = "default 1e-8"},
        {.name = "max_grad_norm",
         .type = ARGS_FLOAT,
         .value = &max_grad_norm,
         .meta = "X",
         .doc = "fills gradient_clipping"},
        {.name = "lr_scheduler_type",
         .type = ARGS_STRING,
         .value = &o->schedule,
         .meta = "NAME",
         .doc = "a schedule's plugin where the ds_config names none: linear, cosine, ..."},
        {.name = "lr_scheduler_kwargs",
         .type = ARGS_STRING,
         .value = &o->schedule_params,
         .meta = "JSON",
         .doc = "its options"},
        {.name = "warmup_steps",
         .type = ARGS_FLOAT,
         .value = &o->warmup_steps,
         .meta = "X",
         .doc = "steps, or below 1 their share of all steps"},
        {.name = "warmup_ratio",
         .type = ARGS_FLOAT,
         .value = &o->warmup_ratio,
         .meta = "X",
         .doc = "share of all steps, where --warmup_steps is 0"},
        {.name = "bf16", .type = ARGS_FLAG, .value = &bf16, .doc = "as the ds_config's bf16"},
        {.name = "fp16", .type = ARGS_FLAG, .value = &fp16, .doc = "as the ds_config's fp16"},
    };
    const args_program program = {
        .usage = "(--model_name_or_path DIR | --config_name CONFIG.json) --train_file FILE\n"
                 "--deepspeed CONFIG --output_dir DIR [options]",
        .doc = "Trains a GPT-2 on a text as a ds_config says. Under zds-run: on several ranks.",
        .options = rows,
        .option_count = sizeof rows / sizeof *rows};
    int code = args_parse(&program, argc, argv, NULL);
    if (code == ARGS_GO)
        code = check(o);
    for (size_t i = 0; code == ARGS_GO && i < program.option_count; i++)
        if (rows[i].value == &o->block_size && rows[i].given && o->block_size < 1)
            code = args_wrong("--block_size wants a number above 0");
    if (code != ARGS_GO)
        return code;
    size_t first = 0; /* from "seed" on the names are TrainingArguments' */
    while (strcmp(rows[first].name, "seed") != 0)
        first++;
    if (!note_arguments(o, rows + first, program.option_count - first))
        return output_error("there is no memory for the arguments");
    return ARGS_GO;
}
