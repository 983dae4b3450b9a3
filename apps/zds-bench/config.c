/* zds-bench config: the time in which a ds_config is read, resolved and checked. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/args.h"
#include "common/output.h"
#include "zds-bench/bench.h"
#include "zds/config.h"

enum { MOST_REPEATS = 1000000 };

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Median of reading `file` from the disk cache until all its problems are known. */
static int measure(const char *file, const zds_config_context *context, int64_t repeats, double *ms)
{
    double *all = calloc((size_t)repeats, sizeof *all);
    int code = all ? EXIT_DONE : output_error("no memory for %lld times", (long long)repeats);
    for (int64_t i = -1; code == EXIT_DONE && i < repeats; i++) { /* one to warm up */
        zds_config *config = NULL;
        zds_error error = ZDS_ERROR_INIT;
        double start = now_ms();
        zds_config_load(file, context, &config, &error);
        if (i >= 0)
            all[i] = now_ms() - start;
        if (!config)
            code = output_error("%s", error.text ? error.text : "out of memory");
        zds_error_clear(&error);
        zds_config_destroy(config);
    }
    if (code == EXIT_DONE) {
        qsort(all, (size_t)repeats, sizeof *all, by_value);
        *ms = all[repeats / 2];
    }
    free(all);
    return code;
}

int bench_config(int argc, char **argv)
{
    const char *arguments = NULL;
    int64_t repeats = 101, world_size = 1, hidden_size = 0, steps = 0;
    bool json = false;
    args_option options[] = {
        {.name = "args",
         .type = ARGS_STRING,
         .value = &arguments,
         .meta = "ARGS.json",
         .doc = "training arguments that fill \"auto\""},
        {.name = "world-size", .type = ARGS_INT, .value = &world_size, .meta = "N", .doc = "(1)"},
        {.name = "hidden-size",
         .type = ARGS_INT,
         .value = &hidden_size,
         .meta = "H",
         .doc = "of the model"},
        {.name = "num-training-steps",
         .type = ARGS_INT,
         .value = &steps,
         .meta = "S",
         .doc = "of the run"},
        {.name = "repeats",
         .type = ARGS_COUNT,
         .value = &repeats,
         .meta = "R",
         .doc = "the median of so many is told (101)"},
        ARGS_TRUST_PLUGINS,
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"}};
    const args_program program = {
        .usage = "config FILE [options]",
        .doc = "Time to load, resolve and check a ds_config in this process, without and with the "
               "options tables of\nthe plugins that it names.",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .min_words = 1,
        .max_words = 1};
    args_words words;
    int code = args_parse(&program, argc, argv, &words);
    if (code != ARGS_GO)
        return code;
    if (repeats < 1 || repeats > MOST_REPEATS || world_size < 1 || world_size > INT32_MAX ||
        hidden_size < 0 || steps < 0)
        return args_wrong("--repeats is from 1 to %d, --world-size at least 1", MOST_REPEATS);
    zds_config_context context = {.struct_size = sizeof context,
                                  .world_size = (int32_t)world_size,
                                  .hidden_size = hidden_size,
                                  .num_training_steps = steps,
                                  .accelerate = arguments != NULL,
                                  .arguments_source = arguments};
    double plain = 0, with_plugins = 0;
    code = measure(words.word[0], &context, repeats, &plain);
    context.check_plugins = true;
    if (code == EXIT_DONE)
        code = measure(words.word[0], &context, repeats, &with_plugins);
    if (code != EXIT_DONE)
        return code;
    if (!json) {
        printf("%s: %.3f ms, with the plugins' tables %.3f ms\n", words.word[0], plain,
               with_plugins);
        return output_end();
    }
    cJSON *out = cJSON_CreateObject();
    cJSON_AddNumberToObject(out, "load_ms", plain);
    cJSON_AddNumberToObject(out, "check_ms", with_plugins);
    return output_json(out);
}
