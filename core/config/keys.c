/* The table of keys for those outside: one by one, and as JSON Schema. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "config/field.h"
#include "zds/config.h"

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

/* The default as a node: strings are quoted in JSON only. NULL: a section without default. */
static cJSON *fallback_node(const field *f)
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
        cJSON *fallback = fallback_node(f);
        char *text = fallback ? cJSON_PrintUnformatted(fallback) : NULL;
        field_expects(f, expects, sizeof expects);
        zds_config_key key = {
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

/* === JSON Schema === */

/* Words and numbers that a boolean is also read from. */
static const char *const bool_words =
    "^([tT]([rR][uU][eE])?|[fF]([aA][lL][sS][eE])?|[yY]([eE][sS])?|[nN][oO]?|[oO][nN]|"
    "[oO][fF][fF]|0|1)$";
static const char *const integer_words = "^\\s*[-+]?[0-9]+(_[0-9]+)*(\\.0*)?\\s*$";
static const char *const number_words =
    "^\\s*[-+]?[0-9]+(_[0-9]+)*(\\.[0-9]*)?([eE][-+]?[0-9]+)?\\s*$";

static cJSON *typed(const char *type)
{
    cJSON *schema = cJSON_CreateObject();
    cJSON_AddStringToObject(schema, "type", type);
    return schema;
}

static cJSON *pattern(const char *text)
{
    cJSON *schema = typed("string");
    cJSON_AddStringToObject(schema, "pattern", text);
    return schema;
}

static cJSON *constant(const char *word)
{
    cJSON *schema = cJSON_CreateObject();
    cJSON_AddStringToObject(schema, "const", word);
    return schema;
}

/* "warn" in any case: "^[wW][aA][rR][nN]$". */
static cJSON *any_case(const char *choices)
{
    size_t length = strlen(choices);
    char *text = malloc(length * 4 + 8), *p = text;
    if (!text)
        return NULL;
    p = stpcpy(p, "^(");
    for (const char *c = choices; *c; c++) {
        bool letter = (*c | 32) >= 'a' && (*c | 32) <= 'z';
        p += letter ? sprintf(p, "[%c%c]", *c | 32, (*c | 32) - 32) : sprintf(p, "%c", *c);
    }
    strcpy(p, ")$");
    cJSON *schema = pattern(text);
    free(text);
    return schema;
}

static void add_choices(const field *f, cJSON *any)
{
    cJSON *schema = cJSON_CreateObject(), *words = cJSON_AddArrayToObject(schema, "enum");
    for (const char *p = f->choices; *p; p += *p == '|') {
        size_t n = strcspn(p, "|");
        char *word = strndup(p, n);
        cJSON_AddItemToArray(words, cJSON_CreateString(word));
        free(word);
        p += n;
    }
    cJSON_AddItemToArray(any, schema);
    if (f->flags & FIELD_NO_CASE)
        cJSON_AddItemToArray(any, any_case(f->choices));
}

static cJSON *number_schema(const field *f)
{
    cJSON *schema = typed(f->type == FIELD_INT ? "integer" : "number");
    if (f->flags & FIELD_MIN)
        cJSON_AddNumberToObject(schema, "minimum", f->min);
    if (f->flags & FIELD_ABOVE)
        cJSON_AddNumberToObject(schema, "exclusiveMinimum", f->min);
    if (f->flags & FIELD_MAX)
        cJSON_AddNumberToObject(schema, "maximum", f->max);
    if (f->flags & FIELD_BELOW)
        cJSON_AddNumberToObject(schema, "exclusiveMaximum", f->max);
    return schema;
}

static cJSON *list_schema(const char *type)
{
    cJSON *schema = typed("array");
    cJSON_AddItemToObject(schema, "items", typed(type));
    return schema;
}

static cJSON *section_schema(const char *path, const field *f);

/* The row of the elements is "PATH.*". */
static cJSON *sections_schema(const field *f)
{
    char path[128];
    snprintf(path, sizeof path, "%s.*", f->path);
    cJSON *schema = typed("array");
    cJSON_AddItemToObject(schema, "items", section_schema(path, NULL));
    return schema;
}

/* The forms that a value may have, the best one first. */
static cJSON *forms(const field *f)
{
    cJSON *any = cJSON_CreateArray();
    switch (f->type) {
    case FIELD_BOOL: {
        static const int bits[] = {0, 1};
        cJSON *number = cJSON_CreateObject();
        cJSON_AddItemToObject(number, "enum", cJSON_CreateIntArray(bits, 2));
        cJSON_AddItemToArray(any, typed("boolean"));
        cJSON_AddItemToArray(any, number);
        cJSON_AddItemToArray(any, pattern(bool_words));
        break;
    }
    case FIELD_INT:
    case FIELD_FLOAT:
        cJSON_AddItemToArray(any, number_schema(f));
        cJSON_AddItemToArray(any, pattern(f->type == FIELD_INT ? integer_words : number_words));
        if (!(f->flags & FIELD_NO_BOOL) && f->flags & FIELD_TYPED)
            cJSON_AddItemToArray(any, typed("boolean"));
        break;
    case FIELD_STRING:
        cJSON_AddItemToArray(any, typed("string"));
        break;
    case FIELD_ENUM:
        add_choices(f, any);
        break;
    case FIELD_STRINGS:
    case FIELD_INTS:
    case FIELD_FLOATS:
        cJSON_AddItemToArray(any, list_schema(f->type == FIELD_INTS     ? "integer"
                                              : f->type == FIELD_FLOATS ? "number"
                                                                        : "string"));
        if (f->flags & FIELD_OR_STRING)
            cJSON_AddItemToArray(any, typed("string"));
        break;
    case FIELD_OBJECT:
        cJSON_AddItemToArray(any, section_schema(f->path, f));
        if (f->flags & FIELD_OR_BOOL)
            cJSON_AddItemToArray(any, typed("boolean"));
        break;
    case FIELD_SECTIONS:
        cJSON_AddItemToArray(any, sections_schema(f));
        break;
    case FIELD_ANY:
        break;
    }
    if (f->flags & FIELD_NULLABLE && f->type != FIELD_ANY)
        cJSON_AddItemToArray(any, typed("null"));
    if (f->flags & FIELD_OR_AUTO || f->auto_from)
        cJSON_AddItemToArray(any, constant("auto"));
    return any;
}

static void describe(cJSON *schema, const field *f)
{
    cJSON *fallback = fallback_node(f);
    char text[1024];
    cJSON_AddStringToObject(schema, "title", field_name(f));
    snprintf(text, sizeof text, "%s%s%s%s%s%s", f->doc, f->auto_from ? " \"auto\": " : "",
             f->auto_from ? f->auto_from : "", f->auto_from ? "." : "",
             f->reason ? " Refused: " : "", f->reason ? f->reason : "");
    cJSON_AddStringToObject(schema, "description", text);
    if (fallback)
        cJSON_AddItemToObject(schema, "default", fallback);
    if (f->support == FIELD_DEPRECATED)
        cJSON_AddTrueToObject(schema, "deprecated");
}

static cJSON *key_schema(const field *f)
{
    cJSON *any = forms(f), *schema;
    if (cJSON_GetArraySize(any) == 1) {
        schema = cJSON_DetachItemFromArray(any, 0);
        cJSON_Delete(any);
    } else {
        schema = cJSON_CreateObject();
        if (cJSON_GetArraySize(any) > 0)
            cJSON_AddItemToObject(schema, "anyOf", any);
        else
            cJSON_Delete(any);
    }
    describe(schema, f);
    return schema;
}

/* The keys below a path ("" for the root) as an object's schema. Removed keys are not among them:
 * their presence is an error. */
static cJSON *section_schema(const char *path, const field *f)
{
    cJSON *schema = typed("object");
    size_t length = strlen(path), count = field_count();
    bool open = f && f->flags & FIELD_OPEN;
    cJSON *keys = cJSON_CreateObject();
    for (size_t i = 0; i < count; i++) {
        const field *child = field_at(i);
        const char *rest = child->path + length + (length > 0);
        if (strncmp(child->path, path, length) != 0 || (length && child->path[length] != '.') ||
            strchr(rest, '.') || child->support == FIELD_REMOVED)
            continue;
        if (strcmp(rest, "*") == 0) {
            cJSON_AddItemToObject(schema, "additionalProperties", key_schema(child));
            continue;
        }
        cJSON_AddItemToObject(keys, rest, key_schema(child));
        if (child->alias)
            cJSON_AddItemToObject(keys, child->alias, key_schema(child));
    }
    cJSON_AddItemToObject(schema, "properties", keys);
    if (!open && !cJSON_HasObjectItem(schema, "additionalProperties"))
        cJSON_AddFalseToObject(schema, "additionalProperties");
    return schema;
}

struct cJSON *zds_config_schema(void)
{
    cJSON *schema = section_schema("", NULL);
    cJSON_AddStringToObject(schema, "$schema", "https://json-schema.org/draft/2020-12/schema");
    cJSON_AddStringToObject(schema, "title", "ds_config");
    cJSON_AddStringToObject(schema, "description",
                            "The config of a training run, as DeepSpeed and zds read it.");
    return schema;
}
