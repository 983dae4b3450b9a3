/* The table of keys as JSON Schema. */
#include "config/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"
#include "host/error.h"

/* Words and numbers that a boolean is also read from. */
static const char *const bool_words =
    "^([tT]([rR][uU][eE])?|[fF]([aA][lL][sS][eE])?|[yY]([eE][sS])?|[nN][oO]?|[oO][nN]|"
    "[oO][fF][fF]|0|1)$";
static const char *const integer_words = "^\\s*[-+]?[0-9]+(_[0-9]+)*(\\.0*)?\\s*$";
static const char *const number_words =
    "^\\s*[-+]?[0-9]+(_[0-9]+)*(\\.[0-9]*)?([eE][-+]?[0-9]+)?\\s*$";

cJSON *schema_typed(const char *type)
{
    cJSON *schema = cJSON_CreateObject();
    cJSON_AddStringToObject(schema, "type", type);
    return schema;
}

static cJSON *pattern(const char *text)
{
    cJSON *schema = schema_typed("string");
    cJSON_AddStringToObject(schema, "pattern", text);
    return schema;
}

cJSON *schema_constant(const char *word)
{
    cJSON *schema = cJSON_CreateObject();
    cJSON_AddStringToObject(schema, "const", word);
    return schema;
}

cJSON *schema_any_case(const char *choices)
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

void schema_add_choices(cJSON *any, const char *choices, bool no_case)
{
    cJSON *schema = cJSON_CreateObject(), *words = cJSON_AddArrayToObject(schema, "enum");
    for (const char *p = choices; *p; p += *p == '|') {
        size_t n = strcspn(p, "|");
        char *word = strndup(p, n);
        cJSON_AddItemToArray(words, cJSON_CreateString(word));
        free(word);
        p += n;
    }
    cJSON_AddItemToArray(any, schema);
    if (no_case)
        cJSON_AddItemToArray(any, schema_any_case(choices));
}

static cJSON *number_schema(const field *f)
{
    cJSON *schema = schema_typed(f->type == FIELD_INT ? "integer" : "number");
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
    cJSON *schema = schema_typed("array");
    cJSON_AddItemToObject(schema, "items", schema_typed(type));
    return schema;
}

static cJSON *section_schema(const char *path, const field *f);

/* The row of the elements is "PATH.*". */
static cJSON *sections_schema(const field *f)
{
    char path[128];
    snprintf(path, sizeof path, "%s.*", f->path);
    cJSON *schema = schema_typed("array");
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
        cJSON_AddItemToArray(any, schema_typed("boolean"));
        cJSON_AddItemToArray(any, number);
        cJSON_AddItemToArray(any, pattern(bool_words));
        break;
    }
    case FIELD_INT:
    case FIELD_FLOAT:
        cJSON_AddItemToArray(any, number_schema(f));
        cJSON_AddItemToArray(any, pattern(f->type == FIELD_INT ? integer_words : number_words));
        if (!(f->flags & FIELD_NO_BOOL) && f->flags & FIELD_TYPED)
            cJSON_AddItemToArray(any, schema_typed("boolean"));
        break;
    case FIELD_STRING:
        cJSON_AddItemToArray(any, schema_typed("string"));
        break;
    case FIELD_ENUM:
        schema_add_choices(any, f->choices, f->flags & FIELD_NO_CASE);
        if (f->flags & FIELD_OR_TIER)
            cJSON_AddItemToArray(any, schema_typed("string"));
        break;
    case FIELD_STRINGS:
    case FIELD_INTS:
    case FIELD_FLOATS:
        cJSON_AddItemToArray(any, list_schema(f->type == FIELD_INTS     ? "integer"
                                              : f->type == FIELD_FLOATS ? "number"
                                                                        : "string"));
        if (f->flags & FIELD_OR_STRING)
            cJSON_AddItemToArray(any, schema_typed("string"));
        break;
    case FIELD_OBJECT:
        cJSON_AddItemToArray(any, section_schema(f->path, f));
        if (f->flags & FIELD_OR_TYPE)
            cJSON_AddItemToArray(any, schema_typed("string"));
        if (f->flags & FIELD_OR_BOOL)
            cJSON_AddItemToArray(any, schema_typed("boolean"));
        break;
    case FIELD_SECTIONS:
        cJSON_AddItemToArray(any, sections_schema(f));
        break;
    case FIELD_ANY:
        break;
    }
    if (f->flags & FIELD_NULLABLE && f->type != FIELD_ANY)
        cJSON_AddItemToArray(any, schema_typed("null"));
    if (f->flags & FIELD_OR_AUTO || f->auto_from)
        cJSON_AddItemToArray(any, schema_constant("auto"));
    return any;
}

static void describe(cJSON *schema, const field *f)
{
    cJSON *fallback = field_fallback(f);
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

cJSON *schema_one_of(cJSON *any)
{
    cJSON *schema =
        cJSON_GetArraySize(any) == 1 ? cJSON_DetachItemFromArray(any, 0) : cJSON_CreateObject();
    if (cJSON_GetArraySize(any) > 0)
        cJSON_AddItemToObject(schema, "anyOf", any);
    else
        cJSON_Delete(any);
    return schema;
}

static cJSON *key_schema(const field *f)
{
    cJSON *schema = schema_one_of(forms(f));
    describe(schema, f);
    return schema;
}

/* The keys below a path ("" for the root) as an object's schema. Removed keys are not among them:
 * their presence is an error. */
static cJSON *section_schema(const char *path, const field *f)
{
    cJSON *schema = schema_typed("object");
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

static cJSON *object_in(cJSON *object, const char *name)
{
    cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return item ? item : cJSON_AddObjectToObject(object, name);
}

/* Where nothing stands in zds.tiers, no tier has a name but the choices. */
static void add_tier_names(cJSON *schema)
{
    cJSON_AddItemToObject(schema, "if",
                          cJSON_Parse("{\"required\": [\"zds\"], \"properties\": {\"zds\": "
                                      "{\"required\": [\"tiers\"]}}}"));
    cJSON *without = cJSON_AddObjectToObject(schema, "else");
    for (size_t i = 0; i < field_count(); i++) {
        field f = *field_at(i);
        if (!(f.flags & FIELD_OR_TIER))
            continue;
        f.flags &= ~(uint32_t)FIELD_OR_TIER;
        cJSON *at = without;
        for (const char *p = f.path, *end; p; p = *end ? end + 1 : NULL) {
            char name[64];
            end = strchrnul(p, '.');
            snprintf(name, sizeof name, "%.*s", (int)(end - p), p);
            at = object_in(object_in(at, "properties"), name);
        }
        cJSON_AddItemToObject(at, "anyOf", forms(&f));
    }
}

zds_status zds_config_schema(const char *plugin_path, char **json, zds_error *error)
{
    if (!json)
        return error_set(error, ZDS_ERR_INVALID, "zds_config_schema: no place for the result");
    cJSON *schema = section_schema("", NULL);
    cJSON_AddStringToObject(schema, "$schema", "https://json-schema.org/draft/2020-12/schema");
    cJSON_AddStringToObject(schema, "title", "ds_config");
    cJSON_AddStringToObject(schema, "description",
                            "The config of a training run, as DeepSpeed and zds read it.");
    add_tier_names(schema);
    zds_status status = schema_add_plugins(schema, plugin_path, error);
    char *printed = status ? NULL : cJSON_Print(schema); /* for people and editors */
    *json = printed ? strdup(printed) : NULL;
    cJSON_free(printed);
    cJSON_Delete(schema);
    return status || *json ? status : error_set(error, ZDS_ERR_MEMORY, "out of memory");
}
