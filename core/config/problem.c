/* The list of what is wrong with a config. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"
#include "host/error.h"

/* A copy in which control characters are written as \u001b: a config is shown on terminals, and a
 * line of a log must be one of ours. */
char *problem_printable(const char *text)
{
    char *copy = malloc(6 * strlen(text) + 1), *to = copy;
    if (!copy)
        return NULL;
    for (const unsigned char *from = (const unsigned char *)text; *from; from++) {
        bool c1 = from[0] == 0xc2 && from[1] >= 0x80 && from[1] < 0xa0; /* U+0080 to U+009F */
        if (*from >= 0x20 && *from != 0x7f && !c1) {
            *to++ = (char)*from;
            continue;
        }
        from += c1;
        to += snprintf(to, 7, "\\u%04x", *from);
    }
    *to = 0;
    return copy;
}

void problem_add_at(zds_config *c, int32_t severity, int32_t check, const char *path,
                    const char *file, source_place at, const char *message)
{
    if (c->problem_count == PROBLEMS_MAX) {
        c->problems_dropped++;
        return;
    }
    if (c->problem_count == c->problem_space) {
        size_t space = c->problem_space ? c->problem_space * 2 : 8;
        problem *grown = realloc(c->problems, space * sizeof *grown);
        if (!grown) {
            c->failed = true;
            return;
        }
        c->problems = grown;
        c->problem_space = space;
    }
    char *own_path = problem_printable(path), *own_message = problem_printable(message);
    if (!own_path || !own_message) {
        free(own_path);
        free(own_message);
        c->failed = true;
        return;
    }
    c->problems[c->problem_count] =
        (problem){{severity, check, own_path, own_message, file, at.line, at.column},
                  c->problem_count,
                  file == c->name};
    c->problem_count++;
}

static void add(zds_config *c, int32_t severity, int32_t check, const char *path, source_place at,
                const char *format, va_list args)
{
    char *message = text_formatv(format, args);
    if (message)
        problem_add_at(c, severity, check, path, c->name, at, message);
    else
        c->failed = true;
    free(message);
}

/* Before anything that costs: there may be very many. */
static bool is_full(zds_config *c)
{
    if (c->problem_count < PROBLEMS_MAX)
        return false;
    c->problems_dropped++;
    return true;
}

void problem_add(zds_config *c, int32_t severity, int32_t check, const char *path,
                 const char *format, ...)
{
    va_list args;
    if (is_full(c))
        return;
    va_start(args, format);
    add(c, severity, check, path, source_value_place(c->src, tree_nearest(c->raw, path)), format,
        args);
    va_end(args);
}

void problem_add_key(zds_config *c, int32_t severity, int32_t check, const char *path,
                     const char *format, ...)
{
    va_list args;
    if (is_full(c))
        return;
    va_start(args, format);
    add(c, severity, check, path, source_key_place(c->src, tree_nearest(c->raw, path)), format,
        args);
    va_end(args);
}

void problem_add_node(zds_config *c, int32_t severity, int32_t check, const char *path,
                      const cJSON *node, bool at_key, const char *format, ...)
{
    va_list args;
    if (is_full(c))
        return;
    source_place at = at_key ? source_key_place(c->src, node) : source_value_place(c->src, node);
    if (!at.line && c->src) /* filled in from the arguments */
        at = source_value_place(c->src, tree_nearest(c->raw, path));
    va_start(args, format);
    add(c, severity, check, path, at, format, args);
    va_end(args);
}

bool problem_is_told(const zds_config *c, const char *path)
{
    for (size_t i = 0; i < c->problem_count; i++)
        if (c->problems[i].of_config && strcmp(c->problems[i].shown.path, path) == 0)
            return true;
    return false;
}

bool problem_retract(zds_config *c, const char *path)
{
    size_t kept = 0, count = c->problem_count;
    for (size_t i = 0; i < c->problem_count; i++) {
        problem *p = &c->problems[i];
        if (!p->of_config || strcmp(p->shown.path, path) != 0) {
            c->problems[kept++] = *p;
            continue;
        }
        free((char *)p->shown.path);
        free((char *)p->shown.message);
    }
    c->problem_count = kept;
    return kept < count;
}

/* By place, those of the training arguments' file first; what has none comes last; else as found.
 */
static int compare(const void *left, const void *right)
{
    const problem *a = left, *b = right;
    if (a->of_config != b->of_config)
        return a->of_config ? 1 : -1;
    bool a_placed = a->shown.line > 0, b_placed = b->shown.line > 0;
    if (a_placed != b_placed)
        return a_placed ? -1 : 1;
    if (a->shown.line != b->shown.line)
        return a->shown.line < b->shown.line ? -1 : 1;
    if (a->shown.column != b->shown.column)
        return a->shown.column < b->shown.column ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

void problems_sort(zds_config *c)
{
    if (c->problem_count)
        qsort(c->problems, c->problem_count, sizeof *c->problems, compare);
}

bool config_has_errors(const zds_config *c, int32_t check)
{
    for (size_t i = 0; i < c->problem_count; i++)
        if (c->problems[i].shown.severity == ZDS_PROBLEM_ERROR &&
            (check < 0 || c->problems[i].shown.check == check))
            return true;
    return false;
}

bool config_has_error_at(const zds_config *c, const char *path)
{
    for (size_t i = 0; i < c->problem_count; i++)
        if (c->problems[i].shown.severity == ZDS_PROBLEM_ERROR && c->problems[i].of_config &&
            strcmp(c->problems[i].shown.path, path) == 0)
            return true;
    return false;
}

/* Where the training arguments say what the config's section would: the option, else all options,
 * else the name. NULL: they do not, or not in a file. */
static const cJSON *schedule_argument(const zds_config *c, const char *path)
{
    static const char section[] = "scheduler";
    const size_t length = sizeof section - 1;
    if (strncmp(path, section, length) != 0 || (path[length] && path[length] != '.') ||
        tree_find(c->raw, section) || !c->arguments_src)
        return NULL;
    const cJSON *tree = source_tree(c->arguments_src),
                *kwargs = cJSON_GetObjectItemCaseSensitive(tree, "lr_scheduler_kwargs"),
                *option = path[length] ? cJSON_GetObjectItemCaseSensitive(kwargs, path + length + 1)
                                       : NULL;
    return option                   ? option
           : path[length] && kwargs ? kwargs
                                    : cJSON_GetObjectItemCaseSensitive(tree, "lr_scheduler_type");
}

void problem_locate(const zds_config *c, zds_problem *p)
{
    const cJSON *argument = schedule_argument(c, p->path);
    source_place at = argument ? source_value_place(c->arguments_src, argument)
                               : source_value_place(c->src, tree_nearest(c->raw, p->path));
    p->file = argument ? source_name(c->arguments_src) : c->name;
    p->line = at.line;
    p->column = at.column;
}

/* "file:line:col: ", "file: " where the file has no such place, "" where there is no file: a tree
 * in memory. The caller frees it. */
static char *place_text(const zds_config *c, const zds_problem *p)
{
    if (p->line)
        return text_format("%s:%d:%d: ", p->file, p->line, p->column);
    return p->file == c->name && !c->src ? strdup("") : text_format("%s: ", p->file);
}

char *problem_line(const zds_config *c, const char *path, const char *message)
{
    zds_problem p = {.path = path};
    problem_locate(c, &p);
    char *place = place_text(c, &p),
         *line =
             place ? text_format("%serror: %s%s%s", place, path, *path ? ": " : "", message) : NULL;
    free(place);
    return line;
}

/* === the key that a message is about === */

static size_t word_length(const char *text)
{
    size_t n = 0;
    while (isalnum((unsigned char)text[n]) || text[n] == '_')
        n++;
    return n;
}

/* The key of that name which the user wrote, wherever; NULL if there is none. */
static const char *written_key(const zds_config *c, const char *name)
{
    for (size_t i = 0; i < field_count(); i++)
        if (strcmp(field_name(field_at(i)), name) == 0 && c->values[i].node)
            return field_at(i)->path;
    return NULL;
}

void problem_path_in(const zds_config *c, const char *section, const char *message, char *path,
                     size_t size)
{
    const cJSON *options = tree_find(c->resolved, section);
    if (!options && strcmp(section, "scheduler") == 0) /* the program's */
        options = cJSON_GetObjectItemCaseSensitive(c->arguments, "lr_scheduler_kwargs");
    for (const char *p = message; *p; p += *p != '\0') {
        char word[64];
        size_t n = word_length(p);
        snprintf(word, sizeof word, "%.*s", (int)n, p);
        p += n;
        const char *elsewhere = strchr(word, '_') ? written_key(c, word) : NULL;
        if (cJSON_GetObjectItemCaseSensitive(options, word)) {
            snprintf(path, size, "%s.%s", section, word);
            return;
        }
        if (elsewhere) {
            snprintf(path, size, "%s", elsewhere);
            return;
        }
    }
    snprintf(path, size, "%s", section);
}

/* === the list === */

bool zds_config_problem(const zds_config *config, size_t index, zds_problem *shown)
{
    if (!config || index >= config->problem_count)
        return false;
    *shown = config->problems[index].shown;
    return true;
}

char *zds_config_problems_text(const zds_config *config)
{
    if (!config || !config->problem_count)
        return NULL;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    for (size_t i = 0; i < config->problem_count; i++) {
        const zds_problem *p = &config->problems[i].shown;
        char *place = place_text(config, p);
        fprintf(out, "%s%s: %s%s%s\n", place ? place : "",
                p->severity == ZDS_PROBLEM_ERROR ? "error" : "warning", p->path,
                *p->path ? ": " : "", p->message);
        free(place);
    }
    if (config->problems_dropped)
        fprintf(out, "%s%serror: %zu more problems\n", config->src ? config->name : "",
                config->src ? ": " : "", config->problems_dropped);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
