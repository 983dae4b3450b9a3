/* zds-config check: all problems at once, with the line and a caret on a terminal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "common/output.h"

/* Where source lines come from: the file again, or the text that was given inline. */
typedef struct lines {
    FILE *in;
    char *text;
    size_t space;
    int32_t number; /* of the line in `text` */
} lines;

static void lines_open(lines *l, const char *file)
{
    *l = (lines){0};
    l->in = file[strspn(file, " \t\r\n")] == '{' ? fmemopen((char *)file, strlen(file), "r")
                                                 : fopen(file, "re");
}

static void lines_close(lines *l)
{
    if (l->in)
        fclose(l->in);
    free(l->text);
}

/* Problems come in the order of lines. */
static const char *lines_get(lines *l, int32_t number)
{
    while (l->in && l->number < number) {
        if (getline(&l->text, &l->space, l->in) < 0)
            return NULL;
        l->number++;
        l->text[strcspn(l->text, "\r\n")] = '\0';
    }
    return l->in && l->number == number ? l->text : NULL;
}

enum { WIDTH = 100 }; /* of a source line shown */

/* The line around the column, tabs as blanks, and a caret under it. */
static void show_line(const char *text, int32_t column)
{
    int32_t at = 1, from = column > WIDTH - 20 ? column - (WIDTH - 20) : 1;
    const char *p = text;
    for (; *p && at < from; p++)
        at += ((unsigned char)p[1] & 0xc0) != 0x80;
    fputs("    ", stdout);
    for (; *p && (at < from + WIDTH || ((unsigned char)*p & 0xc0) == 0x80); p++) {
        unsigned char c = (unsigned char)*p;
        putchar(c == '\t' || c < 0x20 || c == 0x7f ? ' ' : c);
        at += ((unsigned char)p[1] & 0xc0) != 0x80;
    }
    printf("\n    %*s^\n", (int)(column - from), "");
}

static void show(const zds_problem *p, lines *source, bool terminal)
{
    bool warning = p->severity == ZDS_PROBLEM_WARNING;
    const char *bold = terminal ? "\033[1m" : "", *plain = terminal ? "\033[0m" : "",
               *colour = !terminal ? ""
                         : warning ? "\033[1;35m"
                                   : "\033[1;31m";
    printf("%s%s", bold, p->file);
    if (p->line)
        printf(":%d:%d", p->line, p->column);
    printf(":%s %s%s:%s %s%s%s\n", plain, colour, warning ? "warning" : "error", plain, p->path,
           *p->path ? ": " : "", p->message);
    const char *text = terminal && p->line ? lines_get(source, p->line) : NULL;
    if (text)
        show_line(text, p->column);
}

/* A problem that is not the config's own. */
typedef struct found {
    zds_problem problem;
    char *message, *file;
    bool is_there;
} found;

/* Keeps the first warning that a plugin logs, without who says so. */
static void keep_warning(void *user, int32_t level, const char *line)
{
    char **text = user;
    const char *mark = strstr(line, "warning: ");
    if (level == ZDS_LOG_WARNING && mark && !*text)
        *text = strdup(mark + strlen("warning: "));
}

/* What only creating the schedule for the optimizer shows, once all else is right. */
static void try_schedule(const zds_config *config, const context_args *context, found *f)
{
    enum { SOME_STEPS = 1000 }; /* where the run's are not known */
    zds_schedule_point point;
    zds_error error = ZDS_ERROR_INIT;
    bool moves_betas;
    int64_t steps = context->num_training_steps;
    *f = (found){0};
    for (size_t i = 0; zds_config_problem(config, i, &f->problem); i++)
        if (f->problem.severity == ZDS_PROBLEM_ERROR)
            return;
    char *warning = NULL;
    zds_log_to(keep_warning, &warning);
    zds_status status =
        schedule_compute(config, steps ? steps : SOME_STEPS, NULL, 1, &point, &moves_betas, &error);
    zds_log_to(NULL, NULL);
    const char *text = !status ? warning : error.text ? error.text : "out of memory";
    f->is_there = text != NULL;
    if (text && asprintf(&f->message, "%s: %s", zds_config_combination(config), text) < 0)
        f->message = NULL;
    free(warning);
    zds_error_clear(&error);
    if (!f->is_there)
        return;
    f->file = strdup(zds_config_place(config, "scheduler"));
    f->problem = (zds_problem){.severity = status ? ZDS_PROBLEM_ERROR : ZDS_PROBLEM_WARNING,
                               .check = ZDS_CHECK_ZDS,
                               .path = "scheduler",
                               .message = f->message ? f->message : "out of memory",
                               .file = f->file ? f->file : ""};
    char *column = f->file ? strrchr(f->file, ':') : NULL;
    if (!column)
        return;
    *column = '\0';
    f->problem.column = atoi(column + 1);
    char *line = strrchr(f->file, ':');
    if (!line)
        return;
    *line = '\0';
    f->problem.line = atoi(line + 1);
}

static void found_release(found *f)
{
    free(f->message);
    free(f->file);
}

static int exit_code(const zds_config *config)
{
    zds_problem p;
    bool any = false, only_mismatches = true;
    for (size_t i = 0; zds_config_problem(config, i, &p); i++) {
        if (p.severity != ZDS_PROBLEM_ERROR)
            continue;
        any = true;
        only_mismatches &= p.check == ZDS_CHECK_ARGUMENTS;
    }
    zds_hf_mismatch m;
    if (any && only_mismatches && zds_hf_config_mismatch(zds_config_hf(config), 0, &m))
        return EXIT_MISMATCH;
    return any ? EXIT_FAILED : EXIT_DONE;
}

static cJSON *as_json(const zds_config *config, const found *more)
{
    zds_problem p;
    cJSON *out = cJSON_CreateObject();
    cJSON *errors = cJSON_AddArrayToObject(out, "errors"),
          *warnings = cJSON_AddArrayToObject(out, "warnings");
    for (size_t i = 0; zds_config_problem(config, i, &p); i++)
        cJSON_AddItemToArray(p.severity == ZDS_PROBLEM_ERROR ? errors : warnings, problem_json(&p));
    if (more->is_there)
        cJSON_AddItemToArray(more->problem.severity == ZDS_PROBLEM_ERROR ? errors : warnings,
                             problem_json(&more->problem));
    cJSON_AddStringToObject(out, "combination", zds_config_combination(config));
    return out;
}

int command_check(int argc, char **argv)
{
    context_args context = {0};
    bool json = false;
    args_option options[CONTEXT_OPTIONS + 1] = {
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"}};
    context_options(&context, options + 1);
    const args_program program = {
        .usage = "check FILE [ctx] [--json]",
        .doc = "Reports everything that is wrong or unwise with a config. Exit 0: no errors; 1: "
               "errors; 3: only\ndifferences between the file and the training arguments.",
        .options = options,
        .option_count = CONTEXT_OPTIONS + 1,
        .min_words = 1,
        .max_words = 1};
    args_words words;
    int code = args_parse(&program, argc, argv, &words);
    if (code != ARGS_GO || (code = context_read(&context)) != ARGS_GO)
        return code;
    context.context.accelerate = true;
    context.context.check_plugins = true;
    context.context.check_engine = true;
    zds_config *config = load_config(words.word[0], &context, json);
    found more = {0};
    code = EXIT_FAILED;
    if (config)
        try_schedule(config, &context, &more);
    if (config && json) {
        code = output_json(as_json(config, &more));
    } else if (config) {
        lines source;
        zds_problem p;
        bool terminal = isatty(STDOUT_FILENO);
        lines_open(&source, words.word[0]);
        for (size_t i = 0; zds_config_problem(config, i, &p); i++)
            show(&p, &source, terminal);
        lines_close(&source);
        lines_open(&source, words.word[0]); /* the place of this one may be before the last */
        if (more.is_there)
            show(&more.problem, &source, terminal);
        lines_close(&source);
        code = output_end();
    }
    if (config && code == EXIT_DONE)
        code = more.is_there && more.problem.severity == ZDS_PROBLEM_ERROR ? EXIT_FAILED
                                                                           : exit_code(config);
    found_release(&more);
    zds_config_destroy(config);
    return code;
}
