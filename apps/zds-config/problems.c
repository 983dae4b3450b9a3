/* All that is wrong or unwise: what the config knows of itself, and what an engine would refuse. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/output.h"

/* Takes a copy. */
static void add(void *user, const zds_problem *p)
{
    problem_list *all = user;
    if (all->count == all->space) {
        size_t space = all->space ? 2 * all->space : 16;
        zds_problem *grown = realloc(all->list, space * sizeof *grown);
        all->failed |= !grown;
        if (!grown)
            return;
        all->list = grown;
        all->space = space;
    }
    zds_problem one = *p;
    one.path = strdup(p->path);
    one.message = strdup(p->message);
    one.file = strdup(p->file);
    if (one.path && one.message && one.file) {
        all->list[all->count++] = one;
        return;
    }
    all->failed = true;
    free((char *)one.path);
    free((char *)one.message);
    free((char *)one.file);
}

void problems_of_config(const zds_config *config, problem_list *all)
{
    zds_problem p;
    for (size_t i = 0; zds_config_problem(config, i, &p); i++)
        add(all, &p);
}

/* Puts one into its place among those that are in order. */
static void sort_in(problem_list *all, size_t i)
{
    const zds_problem one = all->list[i];
    for (; i > 0; i--) {
        const zds_problem *before = &all->list[i - 1];
        bool same = strcmp(before->file, one.file) == 0;
        if (!same || (before->line && before->line < one.line) ||
            (before->line == one.line && before->column <= one.column))
            break;
        all->list[i] = *before;
    }
    all->list[i] = one;
}

void problems_of_engine(const zds_config *config, int64_t steps, problem_list *all)
{
    enum { SOME_STEPS = 1000 }; /* where the run's are not known */
    choices own;
    size_t first = all->count;
    choices_read(config, steps, &own);
    if (own.options.total_steps <= 0) {
        choices_release(&own);
        choices_read(config, SOME_STEPS, &own);
    }
    zds_status status = zds_engine_check(config, &own.options, add, all, NULL);
    all->failed |= status != ZDS_OK && status != ZDS_ERR_CONFIG;
    choices_release(&own);
    for (size_t i = first; i < all->count; i++)
        sort_in(all, i);
}

/* A line "file:line:col: error: path: what", as the core puts it together; of its parts only the
 * last must be there. Writes into the line. */
static void add_line(problem_list *all, char *line)
{
    zds_problem p = {.path = "", .message = line, .file = ""};
    char *mark = strstr(line, ": error: "), *colon = mark;
    if (mark) {
        int colons = 0;
        while (colon > line && colons < 2)
            colons += *--colon == ':';
        bool placed = colons == 2 && sscanf(colon, ":%d:%d", &p.line, &p.column) == 2;
        *(placed ? colon : mark) = '\0';
        p.file = line;
        p.message = mark + strlen(": error: ");
    } else if (strncmp(line, "error: ", 7) == 0) {
        p.message = line + 7;
    }
    char *end = (char *)p.message + strcspn(p.message, ": ");
    if (p.message != line && *end == ':' && end[1] == ' ') {
        *end = '\0';
        p.path = p.message;
        p.message = end + 2;
    }
    add(all, &p);
}

void problems_add_error(problem_list *all, const zds_error *error)
{
    char *copy = strdup(error->text ? error->text : "out of memory"), *rest = copy, *line;
    all->failed |= !copy;
    while (copy && (line = strsep(&rest, "\n")) != NULL)
        if (*line)
            add_line(all, line);
    free(copy);
}

void problems_release(problem_list *all)
{
    for (size_t i = 0; i < all->count; i++) {
        free((char *)all->list[i].path);
        free((char *)all->list[i].message);
        free((char *)all->list[i].file);
    }
    free(all->list);
}

void problem_tell(const zds_problem *p, const char *what)
{
    fprintf(stderr, "%s", p->file);
    if (p->line)
        fprintf(stderr, ":%d:%d", p->line, p->column);
    fprintf(stderr, ": %s: %s%s%s\n", what, p->path, *p->path ? ": " : "", p->message);
}

static void tell_errors(const problem_list *all)
{
    for (size_t i = 0; i < all->count; i++)
        if (all->list[i].severity == ZDS_PROBLEM_ERROR)
            problem_tell(&all->list[i], "error");
    if (all->failed)
        output_error("there is no memory for all problems");
}

int problems_code(const zds_config *config, const problem_list *all)
{
    bool any = all->failed, only_mismatches = !all->failed;
    for (size_t i = 0; i < all->count; i++) {
        if (all->list[i].severity != ZDS_PROBLEM_ERROR)
            continue;
        any = true;
        only_mismatches &= all->list[i].check == ZDS_CHECK_ARGUMENTS;
    }
    zds_hf_mismatch m;
    if (any && only_mismatches && zds_hf_config_mismatch(zds_config_hf(config), 0, &m))
        return EXIT_MISMATCH;
    return any ? EXIT_FAILED : EXIT_DONE;
}

int tell_problems(const zds_config *config)
{
    problem_list all = {0};
    problems_of_config(config, &all);
    tell_errors(&all);
    int code = problems_code(config, &all);
    problems_release(&all);
    return code;
}

cJSON *problem_json(const zds_problem *problem)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddStringToObject(row, "severity",
                            problem->severity == ZDS_PROBLEM_WARNING ? "warning" : "error");
    cJSON_AddStringToObject(row, "path", problem->path);
    cJSON_AddStringToObject(row, "message", problem->message);
    cJSON_AddStringToObject(row, "file", problem->file);
    cJSON_AddNumberToObject(row, "line", problem->line);
    cJSON_AddNumberToObject(row, "column", problem->column);
    return row;
}

cJSON *report_json(int code, const problem_list *all)
{
    static const char *const names[] = {
        [EXIT_DONE] = "ok", [EXIT_FAILED] = "error", [EXIT_MISMATCH] = "mismatch"};
    cJSON *out = cJSON_CreateObject();
    cJSON_AddStringToObject(out, "status", names[code]);
    cJSON *errors = cJSON_AddArrayToObject(out, "errors"),
          *every = cJSON_AddArrayToObject(out, "problems");
    for (size_t i = 0; i < all->count; i++) {
        cJSON_AddItemToArray(every, problem_json(&all->list[i]));
        if (all->list[i].severity == ZDS_PROBLEM_ERROR)
            cJSON_AddItemToArray(errors, problem_json(&all->list[i]));
    }
    return out;
}
