/* Keys that stand where they are not known: where they belong, or what they were meant to be. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/arguments.h"
#include "config/internal.h"
#include "config/plugins.h"
#include "host/error.h"
#include "plugin/options.h"

void stray_add(zds_config *c, const field *section, const char *path, const cJSON *node)
{
    if (c->stray_count == PROBLEMS_MAX) {
        c->found.dropped++;
        return;
    }
    char *copy = strdup(path);
    if (copy)
        c->strays[c->stray_count++] = (stray){section, copy, node};
    else
        c->found.failed = true;
}

/* === keys of other sections === */

/* "zero_optimization"; NULL for the top level. The caller frees it. */
static char *section_of(const field *f)
{
    const char *dot = strrchr(f->path, '.');
    return dot ? strndup(f->path, (size_t)(dot - f->path)) : NULL;
}

static bool is_called(const field *f, const char *name)
{
    return strcmp(field_name(f), name) == 0 || (f->alias && strcmp(f->alias, name) == 0);
}

static bool takes(const field *f, const cJSON *node)
{
    value scratch;
    if (tree_is_auto(node))
        return f->auto_from;
    return (f->flags & FIELD_OR_BOOL && cJSON_IsBool(node)) ||
           (f->flags & FIELD_OR_TYPE && cJSON_IsString(node)) ||
           value_read(f, node, &scratch) == NULL;
}

/* How well a key of this name would suit: what zds reads, and takes this value, suits best. */
static int suits(const field *f, const char *name, const cJSON *node)
{
    if (f->support == FIELD_REMOVED || strchr(f->path, '*') || !is_called(f, name))
        return 0;
    return 1 + 2 * takes(f, node) + (f->support != FIELD_REFUSED);
}

enum { PLACES = 3 }; /* named of many */

/* "it belongs in bf16, fp16 or flops_profiler": the sections with a key of this name. */
static char *in_sections(const char *name, const cJSON *node)
{
    const field *best[PLACES];
    size_t found = 0, count = field_count();
    int most = 1;
    for (size_t i = 0; i < count; i++) {
        int s = suits(field_at(i), name, node);
        if (s < most)
            continue;
        found = s > most ? 0 : found;
        most = s;
        if (found < PLACES)
            best[found] = field_at(i);
        found++;
    }
    char *list = NULL;
    size_t named = found > PLACES ? PLACES : found;
    bool in = false; /* said already */
    for (size_t i = 0; i < named; i++) {
        char *section = section_of(best[i]);
        const char *lead = i == 0 ? "" : i + 1 == named && found == named ? " or " : ", ";
        char *longer = text_format("%s%s%s%s", list ? list : "", lead, section && !in ? "in " : "",
                                   section ? section : "at the top level");
        in = section;
        free(section);
        free(list);
        list = longer;
    }
    char *text =
        list ? text_format("it belongs %s%s", list, found > named ? " or others" : "") : NULL;
    free(list);
    return text;
}

/* {"a.b": x} for {"a": {"b": x}}, in its section or at the top level. */
static char *without_dots(const field_index *index, const char *path, const char *name)
{
    bool here = field_find_path(index, path) >= 0;
    if (!strchr(name, '.') || (!here && field_find_path(index, name) < 0))
        return NULL;
    char *text = strdup(here ? "a key has no dots; write "
                             : "a key has no dots; at the top level write "),
         *rest = strdup(name);
    size_t depth = 0;
    for (char *p = rest, *part; text && (part = strsep(&p, ".")) != NULL; depth++) {
        char *longer = text_format("%s%s\"%s\": ", text, depth ? "{" : "", part);
        free(text);
        text = longer;
    }
    char *whole = text ? text_format("%s...%.*s", text, (int)depth - 1, "}}}}}}}}") : NULL;
    free(rest);
    free(text);
    return whole;
}

/* A field of TrainingArguments under its own name. */
static char *of_arguments(const char *name)
{
    size_t count = field_count();
    for (size_t i = 0; i < count; i++) {
        const field *f = field_at(i);
        if (f->auto_from && strcmp(f->auto_from, name) == 0)
            return text_format("it is a training argument, called %s here", f->path);
    }
    return arguments_have(name)
               ? text_format("it is a training argument, which the program takes beside the config")
               : NULL;
}

char *stray_place(const zds_config *c, struct registry *plugins, const char *path,
                  const cJSON *node)
{
    char *text = without_dots(&c->index, path, node->string);
    if (!text)
        text = in_sections(node->string, node);
    if (!text && plugins)
        text = config_option_place(c, plugins, path, node->string);
    return text ? text : of_arguments(node->string);
}

/* === reporting === */

/* "lr, betas, momentum" of a section; false if there are more than fit. */
static bool keys_of(const field *section, char *text, size_t size)
{
    size_t length = section ? strlen(section->path) : 0, used = 0, count = field_count();
    for (size_t i = 0; section && i < count; i++) {
        const char *path = field_at(i)->path;
        if (strncmp(path, section->path, length) != 0 || path[length] != '.' ||
            strchr(path + length + 1, '.'))
            continue;
        used +=
            (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", path + length + 1);
        if (used >= size)
            return false;
    }
    return used > 0;
}

/* What to do about a key that belongs nowhere. */
static char *meant(const field *section, const char *name)
{
    char keys[80];
    const char *near = field_nearest(section, name);
    const field *far = near ? NULL : field_nearest_of_all(name);
    if (near)
        return text_format("did you mean %s?", near);
    if (far)
        return text_format("did you mean %s?", far->path);
    if (keys_of(section, keys, sizeof keys))
        return text_format("here are only %s", keys);
    return text_format("delete it (zds-config schema lists all keys)");
}

void strays_report(zds_config *c, struct registry *plugins)
{
    for (size_t i = 0; i < c->stray_count; i++) {
        const stray *s = &c->strays[i];
        bool typed = s->section && s->section->flags & FIELD_TYPED;
        char *what =
            c->found.count < PROBLEMS_MAX ? stray_place(c, plugins, s->path, s->node) : NULL;
        if (!what && c->found.count < PROBLEMS_MAX)
            what = meant(s->section, s->node->string);
        problem_add_node(c, ZDS_PROBLEM_ERROR, typed ? ZDS_CHECK_DEEPSPEED : ZDS_CHECK_ZDS, s->path,
                         s->node, true, "unknown key; %s", what ? what : "delete it");
        free(what);
        free(s->path);
    }
    c->stray_count = 0;
}
