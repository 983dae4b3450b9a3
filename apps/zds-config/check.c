/* zds-config check: all problems at once, with the line and a caret on a terminal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "common/output.h"

/* The lines of the text that the last problem was in. */
typedef struct lines {
    const zds_config *config;
    const char *file, *text; /* text: of the line `number` and what follows */
    size_t length;
    int32_t number;
} lines;

/* Problems of one file come in the order of lines. The line, cut off at its end; the caller frees
 * it. NULL if there is none. */
static char *lines_get(lines *l, const char *file, int32_t number)
{
    if (!l->file || strcmp(l->file, file) != 0 || l->number > number) {
        l->file = file;
        l->text = zds_config_text(l->config, file, &l->length);
        l->number = 1;
    }
    for (; l->text && l->number < number; l->number++) {
        const char *end = memchr(l->text, '\n', l->length);
        if (!end)
            return NULL;
        l->length -= (size_t)(end + 1 - l->text);
        l->text = end + 1;
    }
    size_t length = 0;
    while (l->text && length < l->length && !strchr("\r\n", l->text[length]))
        length++;
    return l->text ? strndup(l->text, length) : NULL;
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
    char *text = terminal && p->line ? lines_get(source, p->file, p->line) : NULL;
    if (text)
        show_line(text, p->column);
    free(text);
}

static cJSON *as_json(const zds_config *config, const problem_list *all)
{
    cJSON *out = report_json(problems_code(config, all), all);
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
    zds_config *config = load_config(words.word[0], &context, json);
    if (!config)
        return EXIT_FAILED;
    problem_list all = {0};
    problems_of_config(config, &all);
    problems_of_engine(config, context.num_training_steps, &all);
    if (json) {
        code = output_json(as_json(config, &all));
    } else {
        lines source = {.config = config};
        for (size_t i = 0; i < all.count; i++)
            show(&all.list[i], &source, isatty(STDOUT_FILENO));
        code = all.failed ? output_error("there is no memory for all problems") : output_end();
    }
    if (code == EXIT_DONE)
        code = problems_code(config, &all);
    problems_release(&all);
    zds_config_destroy(config);
    return code;
}
