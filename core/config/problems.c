/* The list of what is wrong. */
#include "config/problems.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A copy in which control characters are written as \u001b: a config is shown on terminals, and a
 * line of a log must be one of ours. NULL: no memory. */
static char *printable(const char *text)
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

static bool make_room(problems *all)
{
    if (all->count < all->space)
        return true;
    size_t space = all->space ? all->space * 2 : 8;
    problem *grown = realloc(all->list, space * sizeof *grown);
    if (!grown)
        return false;
    all->list = grown;
    all->space = space;
    return true;
}

void problems_add(problems *all, const zds_problem *shown, bool of_config)
{
    if (all->count == PROBLEMS_MAX) {
        all->dropped++;
        return;
    }
    problem one = {*shown, all->count, of_config};
    one.shown.struct_size = sizeof one.shown;
    one.shown.path = printable(shown->path);
    one.shown.message = printable(shown->message);
    if (one.shown.path && one.shown.message && make_room(all)) {
        all->list[all->count++] = one;
        return;
    }
    all->failed = true;
    all->dropped++;
    free((char *)one.shown.path);
    free((char *)one.shown.message);
}

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

void problems_sort(problems *all)
{
    if (all->count)
        qsort(all->list, all->count, sizeof *all->list, compare);
}

void problems_cut(problems *all, size_t count)
{
    while (all->count > count) {
        const problem *last = &all->list[--all->count];
        free((char *)last->shown.path);
        free((char *)last->shown.message);
    }
}

void problems_clear(problems *all)
{
    problems_cut(all, 0);
    free(all->list);
    *all = (problems){0};
}

bool problems_have_errors(const problems *all, int32_t check)
{
    for (size_t i = 0; i < all->count; i++)
        if (all->list[i].shown.severity == ZDS_PROBLEM_ERROR &&
            (check < 0 || all->list[i].shown.check == check))
            return true;
    return false;
}

size_t problems_heard(const problems *all)
{
    return all->count + all->dropped;
}

char *problems_text(const problems *all)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = all->count ? open_memstream(&text, &size) : NULL;
    if (!out)
        return NULL;
    for (size_t i = 0; i < all->count; i++) {
        const zds_problem *p = &all->list[i].shown;
        fputs(p->file, out);
        if (p->line)
            fprintf(out, ":%d:%d", p->line, p->column);
        fprintf(out, ": %s: %s%s%s\n", p->severity == ZDS_PROBLEM_ERROR ? "error" : "warning",
                p->path, *p->path ? ": " : "", p->message);
    }
    if (all->dropped)
        fprintf(out, "%s: error: %zu more problems\n", all->list[all->count - 1].shown.file,
                all->dropped);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
