/* The list of what is wrong with a config. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"
#include "host/error.h"
#include "host/sized.h"

void problem_add_at(zds_config *c, int32_t severity, int32_t check, const char *path,
                    const char *file, source_place at, const char *message)
{
    problems_add(&c->found,
                 &(zds_problem){.severity = severity,
                                .check = check,
                                .path = path,
                                .message = message,
                                .file = file,
                                .line = at.line,
                                .column = at.column},
                 file == c->name);
}

static void add(zds_config *c, int32_t severity, int32_t check, const char *path, source_place at,
                const char *format, va_list args)
{
    char *message = text_formatv(format, args);
    if (message)
        problem_add_at(c, severity, check, path, c->name, at, message);
    else
        c->found.failed = true;
    free(message);
}

/* Before anything that costs: there may be very many. */
static bool is_full(zds_config *c)
{
    if (c->found.count < PROBLEMS_MAX)
        return false;
    c->found.dropped++;
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
    if (!at.line) /* filled in from the arguments */
        at = source_value_place(c->src, tree_nearest(c->raw, path));
    va_start(args, format);
    add(c, severity, check, path, at, format, args);
    va_end(args);
}

bool problem_is_told(const zds_config *c, const char *path)
{
    for (size_t i = 0; i < c->found.count; i++)
        if (c->found.list[i].of_config && strcmp(c->found.list[i].shown.path, path) == 0)
            return true;
    return false;
}

bool problem_retract(zds_config *c, const char *path)
{
    size_t kept = 0, count = c->found.count;
    for (size_t i = 0; i < count; i++) {
        problem *p = &c->found.list[i];
        if (!p->of_config || strcmp(p->shown.path, path) != 0) {
            c->found.list[kept++] = *p;
            continue;
        }
        free((char *)p->shown.path);
        free((char *)p->shown.message);
    }
    c->found.count = kept;
    return kept < count;
}

bool config_has_errors(const zds_config *c, int32_t check)
{
    return problems_have_errors(&c->found, check);
}

/* True if `path` is `inner` or a section around it. */
static bool is_around(const char *path, const char *inner)
{
    size_t length = strlen(path);
    return strncmp(path, inner, length) == 0 && (inner[length] == '\0' || inner[length] == '.');
}

bool config_has_error_around(const zds_config *c, const char *path)
{
    for (size_t i = 0; i < c->found.count; i++) {
        const problem *p = &c->found.list[i];
        if (p->shown.severity == ZDS_PROBLEM_ERROR && p->of_config &&
            is_around(p->shown.path, path))
            return true;
    }
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

void config_note(const zds_config *c, problems *all, int32_t severity, const char *path,
                 const char *message)
{
    const cJSON *argument = schedule_argument(c, path);
    source_place at = argument ? source_value_place(c->arguments_src, argument)
                               : source_value_place(c->src, tree_nearest(c->raw, path));
    problems_add(all,
                 &(zds_problem){.severity = severity,
                                .check = ZDS_CHECK_ZDS,
                                .path = path,
                                .message = message,
                                .file = argument ? source_name(c->arguments_src) : c->name,
                                .line = at.line,
                                .column = at.column},
                 !argument);
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

void config_path_in(const zds_config *c, const char *section, const char *message, char *path,
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

bool zds_config_problem_sized(const zds_config *config, size_t index, zds_problem *shown,
                              size_t size)
{
    if (!config || index >= config->found.count)
        return false;
    sized_fill(shown, size, &config->found.list[index].shown, sizeof *shown);
    return true;
}

char *zds_config_problems_text(const zds_config *config)
{
    return config ? problems_text(&config->found) : NULL;
}
