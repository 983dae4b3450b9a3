/* The command line of zds-train, and the training arguments in it. */
#ifndef ZDS_TRAIN_OPTIONS_H
#define ZDS_TRAIN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct options {
    const char *model, *fresh; /* --model_name_or_path or --config_name; the other is NULL */
    const char *text, *deepspeed, *output;
    bool overwrite;
    const char *data_order, *token_dtype; /* token_dtype NULL: not given */
    int64_t block_size;                   /* 0: not given */
    int64_t generate, seed, logging_steps;
    /* TrainingArguments */
    int64_t max_steps; /* -1: by epochs */
    double epochs;
    double learning_rate, weight_decay, beta1, beta2, epsilon;
    double warmup_steps, warmup_ratio;
    const char *schedule, *schedule_params; /* NULL: not given */
    char *arguments; /* those that were given, under TrainingArguments' names, as JSON text */
} options;

/* Returns ARGS_GO or the code to exit with. The caller frees `arguments`. */
int options_parse(int argc, char **argv, options *o);

#endif
