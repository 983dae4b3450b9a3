/* zds-bench train: runs zds-train on a fresh GPT-2 and random text, and tells what a user waits
 * for: tokens a second, the time from start to the end of the first step, the peak of each rank's
 * proportional memory. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/args.h"
#include "common/output.h"
#include "zds-bench/bench.h"

extern char **environ;

enum { MAX_RANKS = 64, MAX_STEPS = 10000, TEXT_BYTES = 1 << 20 };

typedef struct shape {
    const char *config;
    int64_t layers, heads, width, block, steps, ranks;
} shape;

typedef struct outcome {
    double first_step_ms;
    double pss_mib;         /* of the largest rank, at its peak */
    double tokens, step_ms; /* medians over steps after the second */
} outcome;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info, (void)type, (void)walk;
    return remove(path);
}

/* The model's description and the text. Bytes are uniform: nothing is learnt, but all is computed.
 */
static int write_inputs(const char *folder, const shape *s)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *f = fopen(path, "w");
    if (!f)
        return 0;
    fprintf(f,
            "{\"model_type\": \"gpt2\", \"vocab_size\": 256, \"n_positions\": %lld, \"n_embd\": "
            "%lld, \"n_layer\": %lld, "
            "\"n_head\": %lld, \"resid_pdrop\": 0, \"embd_pdrop\": 0, \"attn_pdrop\": 0, "
            "\"bos_token_id\": 0, "
            "\"eos_token_id\": 0}\n",
            (long long)s->block, (long long)s->width, (long long)s->layers, (long long)s->heads);
    int good = fclose(f) == 0;
    snprintf(path, sizeof path, "%s/text.bin", folder);
    f = good ? fopen(path, "w") : NULL;
    if (!f)
        return 0;
    uint32_t x = 1;
    for (int i = 0; i < TEXT_BYTES; i++) {
        x = x * 1664525u + 1013904223u;
        fputc((int)(x >> 24), f);
    }
    return fclose(f) == 0;
}

/* The largest proportional memory of a process and of all below it; 0 if they are gone. */
static double largest_pss_mib(pid_t pid)
{
    char path[64];
    double largest = bench_pss_mib(pid);
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
    FILE *f = fopen(path, "r");
    int child;
    while (f && fscanf(f, "%d", &child) == 1) {
        double below = largest_pss_mib(child);
        largest = below > largest ? below : largest;
    }
    if (f)
        fclose(f);
    return largest;
}

/* Starts `zds-run -n RANKS zds-train ...` from the folder of this program; -1 if it cannot. */
static pid_t start(const char *folder, const shape *s)
{
    char self[PATH_MAX], run[PATH_MAX + 16], train[PATH_MAX + 16], text[PATH_MAX], config[PATH_MAX],
        out[PATH_MAX], ranks[24], steps[24], block[24];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0)
        return -1;
    self[length] = 0;
    *strrchr(self, '/') = 0;
    snprintf(run, sizeof run, "%s/zds-run", self);
    snprintf(train, sizeof train, "%s/zds-train", self);
    snprintf(text, sizeof text, "%s/text.bin", folder);
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(out, sizeof out, "%s/out", folder);
    snprintf(ranks, sizeof ranks, "%lld", (long long)s->ranks);
    snprintf(steps, sizeof steps, "%lld", (long long)s->steps);
    snprintf(block, sizeof block, "%lld", (long long)s->block);
    char *argv[] = {run,
                    "-n",
                    ranks,
                    train,
                    "--config_name",
                    config,
                    "--train_file",
                    text,
                    "--deepspeed",
                    (char *)(uintptr_t)s->config,
                    "--output_dir",
                    out,
                    "--max_steps",
                    steps,
                    "--block_size",
                    block,
                    "--data_order",
                    "sequential",
                    "--logging_steps",
                    "1",
                    NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    pid_t pid = -1;
    int code = posix_spawn(&pid, run, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return code == 0 ? pid : -1;
}

static volatile sig_atomic_t told_to_end;

static void remember(int number)
{
    told_to_end = number;
}

/* The run is ended, and its files removed, before this program goes. */
static void handle_signals(void)
{
    struct sigaction action = {.sa_handler = remember};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* Watches until the end; returns the exit code. Memory is sampled twice a second: a sample costs
 * milliseconds of a core. */
static int watch(pid_t pid, const char *folder, outcome *o)
{
    bool ending = false;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/out/metrics.jsonl", folder);
    double begun = now_ms(), sampled = 0;
    for (;;) {
        int state;
        if (waitpid(pid, &state, WNOHANG) == pid)
            return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
        struct stat info;
        if (o->first_step_ms == 0 && stat(path, &info) == 0 && info.st_size > 0) {
            o->first_step_ms = now_ms() - begun;
            sampled = 0; /* short runs, too, have a figure */
        }
        if (told_to_end && !ending) {
            kill(pid, SIGTERM);
            ending = true;
        }
        if (now_ms() - sampled > 500) {
            double pss = largest_pss_mib(pid);
            o->pss_mib = pss > o->pss_mib ? pss : o->pss_mib;
            sampled = now_ms();
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int read_metrics(const char *folder, outcome *o)
{
    char path[PATH_MAX], line[4096];
    snprintf(path, sizeof path, "%s/out/metrics.jsonl", folder);
    FILE *f = fopen(path, "r");
    double *tokens = calloc(MAX_STEPS, sizeof *tokens), *times = calloc(MAX_STEPS, sizeof *times);
    size_t n = 0, lines = 0;
    while (f && tokens && times && n < MAX_STEPS && fgets(line, sizeof line, f)) {
        cJSON *row = cJSON_Parse(line);
        if (row && lines++ >= 2) {
            tokens[n] = cJSON_GetNumberValue(cJSON_GetObjectItem(row, "tokens_per_second"));
            times[n++] = cJSON_GetNumberValue(cJSON_GetObjectItem(row, "step_time_ms"));
        }
        cJSON_Delete(row);
    }
    if (f)
        fclose(f);
    if (n) {
        qsort(tokens, n, sizeof *tokens, ascending);
        qsort(times, n, sizeof *times, ascending);
        o->tokens = tokens[n / 2];
        o->step_ms = times[n / 2];
    }
    free(tokens);
    free(times);
    return n > 0;
}

static int measure(const shape *s, bool json)
{
    char folder[] = "/tmp/zds-bench-XXXXXX";
    if (!mkdtemp(folder))
        return output_error("no temporary folder: %s", strerror(errno));
    outcome o = {0};
    int code = EXIT_FAILED;
    pid_t pid = -1;
    handle_signals();
    if (!write_inputs(folder, s))
        output_error("%s: cannot be written: %s", folder, strerror(errno));
    else if ((pid = start(folder, s)) < 0)
        output_error("zds-run is not beside this program");
    else if (watch(pid, folder, &o) != 0 || told_to_end || !read_metrics(folder, &o))
        output_error(told_to_end ? "ended by a signal" : "zds-train failed");
    else
        code = EXIT_DONE;
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (told_to_end)
        return 128 + told_to_end;
    if (code != EXIT_DONE)
        return code;
    if (json) {
        cJSON *tree = cJSON_CreateObject();
        cJSON_AddNumberToObject(tree, "ranks", (double)s->ranks);
        cJSON_AddNumberToObject(tree, "tokens_per_second", o.tokens);
        cJSON_AddNumberToObject(tree, "step_ms", o.step_ms);
        cJSON_AddNumberToObject(tree, "first_step_ms", o.first_step_ms);
        cJSON_AddNumberToObject(tree, "peak_pss_mib", o.pss_mib);
        return output_json(tree);
    }
    printf("%lld ranks: %.0f tokens/s, %.1f ms a step, first step done after %.0f ms, peak %.0f "
           "MiB a rank\n",
           (long long)s->ranks, o.tokens, o.step_ms, o.first_step_ms, o.pss_mib);
    return output_end();
}

int bench_train(int argc, char **argv)
{
    shape s = {.layers = 6, .heads = 6, .width = 384, .block = 256, .steps = 12, .ranks = 2};
    bool json = false;
    args_option options[] = {
        {.name = "config",
         .type = ARGS_STRING,
         .value = &s.config,
         .meta = "DS",
         .doc = "the ds_config"},
        {.name = "ranks",
         .type = ARGS_COUNT,
         .value = &s.ranks,
         .meta = "N",
         .doc = "ranks (default 2)"},
        {.name = "layers",
         .type = ARGS_COUNT,
         .value = &s.layers,
         .meta = "L",
         .doc = "blocks of the GPT-2 (default 6)"},
        {.name = "heads",
         .type = ARGS_COUNT,
         .value = &s.heads,
         .meta = "H",
         .doc = "heads (default 6)"},
        {.name = "width",
         .type = ARGS_COUNT,
         .value = &s.width,
         .meta = "C",
         .doc = "width (default 384)"},
        {.name = "block-size",
         .type = ARGS_COUNT,
         .value = &s.block,
         .meta = "T",
         .doc = "tokens of a row (default 256)"},
        {.name = "steps",
         .type = ARGS_COUNT,
         .value = &s.steps,
         .meta = "S",
         .doc = "steps; the first two are not counted (default 12)"},
        ARGS_TRUST_PLUGINS,
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"}};
    const args_program program = {.usage = "train --config DS [options]",
                                  .doc =
                                      "Trains a fresh GPT-2 with zds-train on random text: tokens "
                                      "a second (median), from start to the "
                                      "end of the first step, peak proportional memory of a rank.",
                                  .options = options,
                                  .option_count = sizeof options / sizeof *options};
    int code = args_parse(&program, argc, argv, NULL);
    if (code != ARGS_GO)
        return code;
    if (!s.config)
        return args_wrong("--config is missing");
    if (s.steps < 3 || s.steps > MAX_STEPS || s.ranks < 1 || s.ranks > MAX_RANKS || s.layers < 1 ||
        s.heads < 1 || s.width < 1 || s.block < 1 || s.width % s.heads)
        return args_wrong("need 3 to %d steps, 1 to %d ranks, and a width that the heads divide",
                          MAX_STEPS, MAX_RANKS);
    return measure(&s, json);
}
