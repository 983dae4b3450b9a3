/* The table of keys for those outside, one by one. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "config/internal.h"

static const char *type_name(field_type type)
{
    static const char *const names[] = {
        [FIELD_BOOL] = "bool",         [FIELD_INT] = "int",       [FIELD_FLOAT] = "float",
        [FIELD_STRING] = "string",     [FIELD_ENUM] = "enum",     [FIELD_STRINGS] = "strings",
        [FIELD_INTS] = "ints",         [FIELD_FLOATS] = "floats", [FIELD_OBJECT] = "section",
        [FIELD_SECTIONS] = "sections", [FIELD_ANY] = "any"};
    return names[type];
}

static const char *support_name(field_support support)
{
    static const char *const names[] = {
        [FIELD_DONE] = "implemented",      [FIELD_PLANNED] = "planned",
        [FIELD_NOOP] = "without effect",   [FIELD_REFUSED] = "refused",
        [FIELD_DEPRECATED] = "deprecated", [FIELD_REMOVED] = "removed"};
    return names[support];
}

cJSON *field_fallback(const field *f)
{
    bool word = f->fallback && f->flags & FIELD_OR_AUTO && strcmp(f->fallback, "auto") == 0;
    if (!f->fallback)
        return f->type == FIELD_OBJECT || f->support == FIELD_REMOVED ? NULL : cJSON_CreateNull();
    if (f->type == FIELD_STRING || f->type == FIELD_ENUM || word)
        return cJSON_CreateString(f->fallback);
    if (f->type == FIELD_INT || f->type == FIELD_FLOAT)
        return cJSON_CreateRaw(f->fallback); /* a double would not hold all integers */
    return cJSON_Parse(f->fallback);
}

static const char *inherited_reason(const field_index *index, int row)
{
    if (field_at((size_t)row)->support != FIELD_REFUSED &&
        field_at((size_t)row)->support != FIELD_REMOVED)
        return NULL;
    for (; row >= 0; row = field_parent(index, row))
        if (field_at((size_t)row)->reason)
            return field_at((size_t)row)->reason;
    return NULL;
}

void zds_config_keys(bool (*visit)(void *user, const zds_config_key *key), void *user)
{
    field_index index;
    field_index_fill(&index);
    size_t count = field_count();
    bool go_on = true;
    for (size_t i = 0; go_on && i < count; i++) {
        const field *f = field_at(i);
        char expects[512];
        cJSON *fallback = field_fallback(f);
        char *text = fallback ? cJSON_PrintUnformatted(fallback) : NULL;
        field_expects(f, expects, sizeof expects);
        zds_config_key key = {
            .struct_size = sizeof key,
            .path = f->path,
            .type = type_name(f->type),
            .fallback = text,
            .expects = expects,
            .choices = f->choices,
            .aliases = f->alias ? f->alias : "",
            .successor = f->successor,
            .auto_from = f->auto_from,
            .support = support_name(f->support),
            .planned = f->planned,
            .reason = inherited_reason(&index, (int)i),
            .doc = f->doc,
            .min = f->flags & (FIELD_MIN | FIELD_ABOVE) ? f->min : -(double)INFINITY,
            .max = f->flags & (FIELD_MAX | FIELD_BELOW) ? f->max : (double)INFINITY,
            .above_min = f->flags & FIELD_ABOVE,
            .below_max = f->flags & FIELD_BELOW,
            .nullable = f->flags & FIELD_NULLABLE,
            .open = f->flags & (FIELD_OPEN | FIELD_MAP),
        };
        go_on = visit(user, &key);
        cJSON_free(text);
        cJSON_Delete(fallback);
    }
}

const char *zds_config_nearest_key(const char *path)
{
    field_index index;
    field_index_fill(&index);
    const field *parent = NULL;
    for (;;) {
        size_t length = strcspn(path, ".");
        char name[128];
        snprintf(name, sizeof name, "%.*s", (int)(length < 127 ? length : 127), path);
        int row = field_find(&index, parent, name);
        const char *near = row < 0 ? field_nearest(parent, name) : NULL;
        if (near)
            row = field_find(&index, parent, near);
        if (row < 0)
            return NULL;
        parent = field_at((size_t)row);
        if (!path[length])
            return parent->path;
        path += length + 1;
    }
}
