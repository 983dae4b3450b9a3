/* The optimizers and schedules that there are, and their options, as JSON Schema. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/internal.h"
#include "config/schema.h"
#include "host/error.h"
#include "plugin/options.h"
#include "plugin/registry.h"
#include "plugin/table.h"

/* === options === */

static cJSON *number(const zds_option *option, const char *type)
{
    cJSON *schema = schema_typed(type);
    if (isfinite(option->min))
        cJSON_AddNumberToObject(
            schema, option->flags & ZDS_OPTION_ABOVE_MIN ? "exclusiveMinimum" : "minimum",
            option->min);
    if (isfinite(option->max))
        cJSON_AddNumberToObject(
            schema, option->flags & ZDS_OPTION_BELOW_MAX ? "exclusiveMaximum" : "maximum",
            option->max);
    return schema;
}

/* An element of an array, which may be null where the whole may. */
static cJSON *element(const zds_option *option)
{
    cJSON *any = cJSON_CreateArray();
    cJSON_AddItemToArray(any, number(option, "number"));
    if (option->flags & ZDS_OPTION_NULLABLE)
        cJSON_AddItemToArray(any, schema_typed("null"));
    return schema_one_of(any);
}

static cJSON *array(const zds_option *option, double least, double most)
{
    cJSON *schema = schema_typed("array");
    cJSON_AddItemToObject(schema, "items", element(option));
    cJSON_AddNumberToObject(schema, "minItems", least);
    if (most > 0)
        cJSON_AddNumberToObject(schema, "maxItems", most);
    return schema;
}

static cJSON *forms(const zds_option *option)
{
    cJSON *any = cJSON_CreateArray();
    switch (option->type) {
    case ZDS_OPTION_BOOL:
        cJSON_AddItemToArray(any, schema_typed("boolean"));
        break;
    case ZDS_OPTION_INT:
        cJSON_AddItemToArray(any, number(option, "integer"));
        break;
    case ZDS_OPTION_FLOAT:
        cJSON_AddItemToArray(any, number(option, "number"));
        break;
    case ZDS_OPTION_STRING:
        cJSON_AddItemToArray(any, schema_typed("string"));
        break;
    case ZDS_OPTION_ENUM:
        schema_add_choices(any, option->choices, true);
        break;
    case ZDS_OPTION_FLOATS:
        cJSON_AddItemToArray(any, array(option, option->count, option->count));
        break;
    case ZDS_OPTION_FLOAT_LIST:
        cJSON_AddItemToArray(any, number(option, "number"));
        cJSON_AddItemToArray(any, array(option, 1, 0));
        break;
    default: /* table_fault has refused the plugin */
        break;
    }
    if (option->flags & ZDS_OPTION_NULLABLE && option->type != ZDS_OPTION_BOOL)
        cJSON_AddItemToArray(any, schema_typed("null"));
    if (option->auto_from)
        cJSON_AddItemToArray(any, schema_constant("auto"));
    return any;
}

static cJSON *option_schema(const zds_option *option)
{
    cJSON *schema = schema_one_of(forms(option));
    cJSON_AddStringToObject(schema, "title", option->name);
    char *doc =
        text_format("%s%s%s%s", option->doc, option->auto_from ? " \"auto\": " : "",
                    option->auto_from ? option->auto_from : "", option->auto_from ? "." : "");
    cJSON_AddStringToObject(schema, "description", doc ? doc : option->doc);
    free(doc);
    if (option->default_value)
        cJSON_AddItemToObject(schema, "default", cJSON_Parse(option->default_value));
    return schema;
}

/* What torch.optim's classes have beside what they compute: harmless where it is off. */
static cJSON *of_pytorch(void)
{
    cJSON *schema = cJSON_CreateObject(), *off = cJSON_AddArrayToObject(schema, "enum");
    cJSON_AddItemToArray(off, cJSON_CreateFalse());
    cJSON_AddItemToArray(off, cJSON_CreateNull());
    cJSON_AddStringToObject(schema, "description", "Chooses how PyTorch computes.");
    return schema;
}

static cJSON *params_schema(const zds_plugin *plugin)
{
    cJSON *schema = schema_typed("object"), *required = cJSON_CreateArray();
    cJSON_AddStringToObject(schema, "title", plugin->name);
    cJSON_AddStringToObject(schema, "description", plugin->doc);
    cJSON *options = cJSON_AddObjectToObject(schema, "properties");
    for (size_t i = 0; i < plugin->option_count; i++) {
        const zds_option *option = table_row(plugin, i);
        if (plugin->kind == ZDS_KIND_OPTIM && strcmp(option->name, MAX_GRAD_NORM) == 0)
            continue;
        cJSON_AddItemToObject(options, option->name, option_schema(option));
        if (option->flags & ZDS_OPTION_REQUIRED)
            cJSON_AddItemToArray(required, cJSON_CreateString(option->name));
    }
    cJSON *hidden = cJSON_AddObjectToObject(schema, "patternProperties");
    for (size_t i = 0; options_of_pytorch[i]; i++) {
        char name[64];
        snprintf(name, sizeof name, "^%s$", options_of_pytorch[i]);
        cJSON_AddItemToObject(hidden, name, of_pytorch());
    }
    cJSON_AddFalseToObject(schema, "additionalProperties");
    cJSON_AddItemToObject(schema, "required", required);
    return schema;
}

/* === sections === */

typedef struct section {
    const char *kind;
    cJSON *definitions; /* of the whole schema: "optim.AdamW" and so on */
    cJSON *names;       /* forms of the type */
    cJSON *rules;       /* for each plugin: if the type is one of its names, the params are its */
} section;

/* Of several plugins with one name, the first counts. */
static bool is_new(const section *s, const char *name)
{
    const cJSON *form;
    cJSON_ArrayForEach(form, s->names)
    {
        if (strcasecmp(cJSON_GetObjectItem(form, "const")->valuestring, name) == 0)
            return false;
    }
    return true;
}

/* Adds a spelling to the names and to `choices`, a '|' separated list that it returns. */
static char *add_name(section *s, char *choices, const char *name, const zds_plugin *plugin)
{
    if (!is_new(s, name))
        return choices;
    cJSON *form = schema_constant(name);
    char *doc =
        strcmp(name, plugin->name) == 0 ? NULL : text_format("%s: %s", plugin->name, plugin->doc);
    cJSON_AddStringToObject(form, "description", doc ? doc : plugin->doc);
    cJSON_AddItemToArray(s->names, form);
    char *longer = text_format("%s%s%s", choices ? choices : "", choices ? "|" : "", name);
    free(doc);
    free(choices);
    return longer;
}

static bool add_plugin(void *user, const zds_plugin *plugin, const char *file)
{
    section *s = user;
    char definition[96], reference[128];
    (void)file;
    snprintf(definition, sizeof definition, "%s.%.80s", s->kind, plugin->name);
    snprintf(reference, sizeof reference, "#/$defs/%s", definition);
    char *choices = add_name(s, NULL, plugin->name, plugin);
    for (size_t i = 0; plugin->aliases && plugin->aliases[i]; i++)
        choices = add_name(s, choices, plugin->aliases[i], plugin);
    if (!choices)
        return true;
    cJSON *params = params_schema(plugin);
    cJSON_AddItemToObject(s->definitions, definition, params);

    cJSON *rule = cJSON_CreateObject(), *when = cJSON_AddObjectToObject(rule, "if"),
          *then = cJSON_AddObjectToObject(rule, "then");
    const char *type = "type", *needed = "params";
    cJSON_AddItemToObject(cJSON_AddObjectToObject(when, "properties"), type,
                          schema_any_case(choices));
    cJSON_AddItemToObject(when, "required", cJSON_CreateStringArray(&type, 1));
    cJSON_AddStringToObject(
        cJSON_AddObjectToObject(cJSON_AddObjectToObject(then, "properties"), needed), "$ref",
        reference);
    if (cJSON_GetArraySize(cJSON_GetObjectItem(params, "required")) > 0)
        cJSON_AddItemToObject(then, "required", cJSON_CreateStringArray(&needed, 1));
    cJSON_AddItemToArray(s->rules, rule);
    free(choices);
    return true;
}

/* The properties of a section's key. */
static cJSON *keys_of(const cJSON *schema, const char *name, const char *key)
{
    const cJSON *keys = cJSON_GetObjectItem(cJSON_GetObjectItem(schema, "properties"), name);
    keys = cJSON_GetObjectItem(cJSON_GetObjectItem(keys, "properties"), key);
    return cJSON_GetObjectItem(keys, "properties");
}

/* Any other string may name a plugin elsewhere, or be the path of one; null is no type. */
static void complete(cJSON *schema, section *s)
{
    cJSON *type = cJSON_GetObjectItem(cJSON_GetObjectItem(schema, "properties"), "type");
    cJSON_AddItemToArray(s->names, schema_typed("string"));
    cJSON_AddItemToArray(s->names, schema_typed("null"));
    cJSON_DeleteItemFromObject(type, "anyOf");
    cJSON_AddItemToObject(type, "anyOf", s->names);
    cJSON_AddItemToObject(schema, "allOf", s->rules);
}

zds_status schema_add_plugins(cJSON *schema, const char *path, zds_error *error)
{
    static const struct {
        const char *key, *kind;
        int32_t number;
    } sections[] = {{"optimizer", "optim", ZDS_KIND_OPTIM}, {"scheduler", "sched", ZDS_KIND_SCHED}};
    registry *plugins = NULL;
    cJSON *definitions = cJSON_AddObjectToObject(schema, "$defs");
    zds_status status = registry_create(path, NULL, true, &plugins, error);
    for (size_t i = 0; i < sizeof sections / sizeof *sections && !status; i++) {
        section s = {sections[i].kind, definitions, cJSON_CreateArray(), cJSON_CreateArray()};
        status = registry_each(plugins, sections[i].number, NULL, add_plugin, &s, error);
        complete(cJSON_GetObjectItem(cJSON_GetObjectItem(schema, "properties"), sections[i].key),
                 &s);
    }
    cJSON_AddFalseToObject(keys_of(schema, "optimizer", "params"), MAX_GRAD_NORM);
    registry_destroy(plugins);
    return status;
}
