/* Finding rows of the table of ds_config's keys, and saying what they expect. */
#include "config/field.h"

#include "host/nearest.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const field_rows *const parts[] = {&field_rows_run, &field_rows_zero, &field_rows_tools,
                                          &field_rows_refused, &field_rows_experts};
enum { PARTS = sizeof parts / sizeof *parts };

size_t field_count(void)
{
    size_t count = 0;
    for (size_t i = 0; i < PARTS; i++)
        count += parts[i]->count;
    return count;
}

const field *field_at(size_t i)
{
    size_t part = 0;
    while (i >= parts[part]->count)
        i -= parts[part++]->count;
    return &parts[part]->row[i];
}

const char *field_name(const field *f)
{
    const char *dot = strrchr(f->path, '.');
    return dot ? dot + 1 : f->path;
}

void field_expects(const field *f, char *text, size_t size)
{
    const char *also = f->flags & FIELD_OR_AUTO    ? " or \"auto\""
                       : f->flags & FIELD_NULLABLE ? " or null"
                                                   : "";
    char range[64] = "";
    if (f->flags & FIELD_BELOW)
        snprintf(range, sizeof range, " > %.15g and < %.15g", f->min, f->max);
    else if (f->flags & FIELD_MAX)
        snprintf(range, sizeof range, " from %.15g to %.15g", f->min, f->max);
    else if (f->flags & (FIELD_MIN | FIELD_ABOVE))
        snprintf(range, sizeof range, " %s %.15g", f->flags & FIELD_MIN ? ">=" : ">", f->min);
    switch (f->type) {
    case FIELD_BOOL:
        snprintf(text, size, "true or false%s", also);
        break;
    case FIELD_INT:
        snprintf(text, size, "an integer%s%s", range, also);
        break;
    case FIELD_FLOAT:
        snprintf(text, size, "a number%s%s", range, also);
        break;
    case FIELD_STRING:
        snprintf(text, size, "a string%s", also);
        break;
    case FIELD_STRINGS:
        snprintf(text, size, "%san array of strings%s",
                 f->flags & FIELD_OR_STRING ? "a string or " : "", also);
        break;
    case FIELD_INTS:
        snprintf(text, size, "an array of integers%s", also);
        break;
    case FIELD_FLOATS:
        snprintf(text, size, "an array of numbers%s", also);
        break;
    case FIELD_SECTIONS:
        snprintf(text, size, "an array of objects%s", also);
        break;
    case FIELD_OBJECT:
        snprintf(text, size, "%san object { ... }%s%s",
                 f->flags & FIELD_OR_TYPE ? "a name or " : "", also,
                 f->flags & FIELD_OR_BOOL ? " or true or false" : "");
        break;
    case FIELD_ANY:
        snprintf(text, size, "a value%s", also);
        break;
    case FIELD_ENUM: {
        size_t n = (size_t)snprintf(text, size, "one of ");
        for (const char *p = f->choices; *p && n < size; p++)
            n += (size_t)snprintf(text + n, size - n, *p == '|' ? ", " : "%c", *p);
        if (n < size)
            snprintf(text + n, size - n, "%s%s",
                     f->flags & FIELD_OR_TIER ? " or a name that stands in zds.tiers" : "", also);
        break;
    }
    }
}

bool field_has_choice(const char *choices, const char *text, bool no_case)
{
    size_t length = strlen(text);
    for (const char *p = choices; length; p++) {
        size_t n = strcspn(p, "|");
        if (n == length && (no_case ? strncasecmp(p, text, n) : strncmp(p, text, n)) == 0)
            return true;
        p += n;
        if (!*p)
            break;
    }
    return false;
}

/* === index === */

static size_t hash_add(size_t h, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        h = (h ^ (unsigned char)text[i]) * 16777619u & 0xffffffffu;
    return h;
}

static size_t hash_key(const char *parent, size_t parent_length, const char *name,
                       size_t name_length)
{
    size_t h = hash_add(2166136261u, parent, parent_length);
    if (parent_length)
        h = hash_add(h, ".", 1);
    h = hash_add(h, name, name_length);
    return (h ^ h >> 15) & (FIELD_INDEX_SIZE - 1);
}

static size_t parent_length(const field *f)
{
    const char *dot = strrchr(f->path, '.');
    return dot ? (size_t)(dot - f->path) : 0;
}

static bool names(const field *f, const char *parent, size_t parent_size, const char *name,
                  size_t length)
{
    if (parent_length(f) != parent_size || strncmp(f->path, parent, parent_size) != 0)
        return false;
    const char *own = field_name(f);
    return (strlen(own) == length && memcmp(own, name, length) == 0) ||
           (f->alias && strlen(f->alias) == length && memcmp(f->alias, name, length) == 0);
}

void field_index_fill(field_index *index)
{
    memset(index, 0, sizeof *index);
    size_t i = 0;
    for (size_t p = 0; p < PARTS; p++) {
        for (size_t k = 0; k < parts[p]->count; k++, i++) {
            const field *f = &parts[p]->row[k];
            const char *spelling[] = {field_name(f), f->alias};
            for (size_t s = 0; s < 2 && spelling[s]; s++) {
                size_t at = hash_key(f->path, parent_length(f), spelling[s], strlen(spelling[s]));
                while (index->slot[at])
                    at = (at + 1) & (FIELD_INDEX_SIZE - 1);
                index->slot[at] = (uint16_t)(i + 1);
            }
        }
    }
}

static int find(const field_index *index, const field *parent, const char *name, size_t length)
{
    const char *path = parent ? parent->path : "";
    size_t path_length = strlen(path);
    size_t at = hash_key(path, path_length, name, length);
    for (; index->slot[at]; at = (at + 1) & (FIELD_INDEX_SIZE - 1)) {
        int row = index->slot[at] - 1;
        if (names(field_at((size_t)row), path, path_length, name, length))
            return row;
    }
    if (parent && parent->flags & FIELD_MAP && strcmp(name, "*") != 0)
        return find(index, parent, "*", 1);
    return -1;
}

int field_find(const field_index *index, const field *parent, const char *name)
{
    return find(index, parent, name, strlen(name));
}

int field_find_path(const field_index *index, const char *path)
{
    const field *parent = NULL;
    for (;;) {
        size_t length = strcspn(path, ".");
        int row = find(index, parent, path, length);
        if (row < 0 || !path[length])
            return row;
        parent = field_at((size_t)row);
        path += length + 1;
    }
}

int field_parent(const field_index *index, int i)
{
    const field *f = field_at((size_t)i);
    size_t length = parent_length(f);
    char path[256];
    if (!length || length >= sizeof path)
        return -1;
    memcpy(path, f->path, length);
    path[length] = '\0';
    return field_find_path(index, path);
}

const field *field_first_of(const field *section)
{
    size_t length = strlen(section->path), count = field_count();
    for (size_t i = 0; i < count; i++) {
        const field *f = field_at(i);
        if (parent_length(f) == length && strncmp(f->path, section->path, length) == 0)
            return f;
    }
    return NULL;
}

/* === suggestions === */

const char *field_nearest(const field *parent, const char *name)
{
    const char *path = parent ? parent->path : "", *best = NULL;
    size_t path_length = strlen(path);
    size_t least = SIZE_MAX;
    for (size_t p = 0; p < PARTS; p++) {
        for (size_t k = 0; k < parts[p]->count; k++) {
            const field *f = &parts[p]->row[k];
            if (f->support == FIELD_REMOVED || parent_length(f) != path_length ||
                strncmp(f->path, path, path_length) != 0)
                continue;
            const char *spelling[] = {field_name(f), f->alias};
            for (size_t s = 0; s < 2 && spelling[s]; s++) {
                if (!name_is_near(name, spelling[s]))
                    continue;
                size_t d = name_distance(name, spelling[s]);
                if (d < least) {
                    best = spelling[s];
                    least = d;
                }
            }
        }
    }
    return best;
}

const field *field_nearest_of_all(const char *name)
{
    size_t count = field_count(), length = strlen(name), least = length / 8 + 2;
    const field *best = NULL;
    for (size_t i = 0; length > 4 && i < count; i++) {
        const field *f = field_at(i);
        if (f->support == FIELD_REMOVED || strchr(f->path, '*'))
            continue;
        size_t d = name_distance(name, field_name(f));
        if (d < least) {
            best = f;
            least = d;
        }
    }
    return best;
}
