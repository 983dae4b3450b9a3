/* A plugin's table of options as such: whether it makes sense, and what it says. */
#include "plugin/table.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/fault.h"
#include "plugin/json.h"
#include "plugin/options.h"

enum { MOST_OPTIONS = 1000, MOST_BYTES = 1 << 20 };

/* What a value of each type takes in the options struct. */
static const struct {
    const char *name;
    size_t size, align;
    bool ranged; /* min and max count */
} types[] = {
    [ZDS_OPTION_BOOL] = {"bool", sizeof(bool), _Alignof(bool), false},
    [ZDS_OPTION_INT] = {"int", sizeof(int64_t), _Alignof(int64_t), true},
    [ZDS_OPTION_FLOAT] = {"float", sizeof(double), _Alignof(double), true},
    [ZDS_OPTION_STRING] = {"string", sizeof(char *), _Alignof(char *), false},
    [ZDS_OPTION_ENUM] = {"enum", sizeof(int64_t), _Alignof(int64_t), false},
    [ZDS_OPTION_FLOATS] = {"floats", sizeof(double), _Alignof(double), true},
    [ZDS_OPTION_FLOAT_LIST] = {"float_list", sizeof(zds_float_list), _Alignof(zds_float_list),
                               true},
};

const char *table_type_name(int32_t type)
{
    return type > 0 && (size_t)type < sizeof types / sizeof *types ? types[type].name : NULL;
}

bool table_is_line(const char *text)
{
    for (; text && *text; text++)
        if (iscntrl((unsigned char)*text))
            return false;
    return true;
}

static size_t size_of(const zds_option *option)
{
    size_t elements = option->type == ZDS_OPTION_FLOATS ? option->count : 1;
    return types[option->type].size * elements;
}

static char *default_fault(const zds_option *option)
{
    if (option->flags & ZDS_OPTION_REQUIRED)
        return option->default_value ? fault_format("is required and has a default") : NULL;
    if (!option->default_value)
        return fault_format("has no default; set ZDS_OPTION_REQUIRED if that is meant");
    bool no_memory;
    cJSON *value = json_parse(option->default_value, &no_memory);
    if (!value)
        return no_memory
                   ? fault_no_memory()
                   : fault_format("has a default that is not JSON: %s", option->default_value);
    char *wrong = option_read(option, value, NULL);
    cJSON_Delete(value);
    if (!wrong || fault_is_memory(wrong))
        return wrong;
    char *text = fault_format("has a default that does not fit: it %s", wrong);
    fault_free(wrong);
    return text;
}

/* What is wrong with one row; offsets and sizes first, since the rest relies on the type. */
static char *row_fault(const zds_plugin *plugin, const zds_option *option)
{
    if (!table_type_name(option->type))
        return fault_format("has the unknown type %d", option->type);
    if (option->type == ZDS_OPTION_FLOATS &&
        (option->count == 0 || option->count > MOST_BYTES / sizeof(double)))
        return fault_format("has %u elements", option->count);
    if (option->offset > plugin->options_size ||
        size_of(option) > plugin->options_size - option->offset)
        return fault_format("lies at offset %zu with %zu bytes, outside the options struct of %zu",
                            option->offset, size_of(option), plugin->options_size);
    if (option->offset % types[option->type].align)
        return fault_format("lies at offset %zu, which is not aligned for a %s", option->offset,
                            types[option->type].name);
    if (option->type == ZDS_OPTION_ENUM && (!option->choices || !*option->choices))
        return fault_format("has no choices");
    if (option->type == ZDS_OPTION_BOOL && option->flags & ZDS_OPTION_NULLABLE)
        return fault_format("is a bool and nullable: a bool has no value for null");
    if (types[option->type].ranged && !(option->min <= option->max))
        return fault_format("has the range %g to %g; write -INFINITY, INFINITY for none",
                            option->min, option->max);
    if (!table_is_line(option->doc))
        return fault_format("has a doc that is not one line of text");
    return default_fault(option);
}

static char *pair_fault(const zds_option *a, const zds_option *b)
{
    if (strcmp(a->name, b->name) == 0)
        return fault_format("is there twice");
    if (a->offset < b->offset + size_of(b) && b->offset < a->offset + size_of(a))
        return fault_format("shares bytes of the options struct with \"%s\"", b->name);
    return NULL;
}

/* The engine reads these four by name: see the comment of options in plugin.h. */
static char *special_fault(const zds_plugin *plugin)
{
    static const struct {
        const char *name;
        bool several;
    } special[] = {{"lr", false}, {"momentum", false}, {"weight_decay", false}, {"betas", true}};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
        const zds_option *option = options_find(plugin, special[i].name);
        if (!option || plugin->kind != ZDS_KIND_OPTIM)
            continue;
        if (!special[i].several && option->type != ZDS_OPTION_FLOAT)
            return fault_format("option \"%s\" of an optimizer must be a float", option->name);
        if (special[i].several &&
            (option->type != ZDS_OPTION_FLOATS || (option->count != 2 && option->count != 3)))
            return fault_format("option \"%s\" of an optimizer must be 2 or 3 floats",
                                option->name);
    }
    return NULL;
}

/* Takes over `fault`. */
static char *name_fault(const zds_option *option, char *fault)
{
    if (fault_is_memory(fault))
        return fault;
    char *text = fault_format("option \"%s\" %s", option->name, fault);
    fault_free(fault);
    return text;
}

char *table_fault(const zds_plugin *plugin)
{
    if (plugin->option_count == 0)
        return NULL;
    if (!plugin->options)
        return fault_format("option_count is %zu, but options is NULL", plugin->option_count);
    if (plugin->option_count > MOST_OPTIONS || plugin->options_size > MOST_BYTES)
        return fault_format("%zu options in %zu bytes are more than the %d in %d that a plugin may "
                            "have",
                            plugin->option_count, plugin->options_size, MOST_OPTIONS, MOST_BYTES);
    if (plugin->option_stride < ZDS_OPTION_1_0 || plugin->option_stride % _Alignof(zds_option) != 0)
        return fault_format("option_stride is %zu; it must be sizeof(zds_option), at least %zu",
                            plugin->option_stride, ZDS_OPTION_1_0);
    for (size_t i = 0; i < plugin->option_count; i++) {
        const zds_option *option = table_row(plugin, i);
        if (!option->name || !*option->name)
            return fault_format("option %zu has no name", i);
        if (!table_is_line(option->name))
            return fault_format("the name of option %zu is not one line of text", i);
        char *fault = row_fault(plugin, option);
        for (size_t k = 0; k < i && !fault; k++)
            fault = pair_fault(option, table_row(plugin, k));
        if (fault)
            return name_fault(option, fault);
    }
    return special_fault(plugin);
}

static bool add_text(cJSON *object, const char *name, const char *text)
{
    return json_add(object, name, text ? cJSON_CreateString(text) : cJSON_CreateNull());
}

static bool add_bound(cJSON *object, const char *name, const zds_option *option, double bound)
{
    bool there = types[option->type].ranged && isfinite(bound);
    return json_add(object, name, there ? cJSON_CreateNumber(bound) : cJSON_CreateNull());
}

static bool add_flag(cJSON *object, const char *name, const zds_option *option, uint32_t flag)
{
    return json_add(object, name, cJSON_CreateBool((option->flags & flag) != 0));
}

static cJSON *choices_array(const char *choices)
{
    cJSON *array = cJSON_CreateArray();
    bool whole = array != NULL;
    while (choices && whole) {
        size_t length = strcspn(choices, "|");
        char *choice = strndup(choices, length);
        whole = json_append(array, choice ? cJSON_CreateString(choice) : NULL);
        free(choice);
        choices = choices[length] ? choices + length + 1 : NULL;
    }
    return json_whole(array, whole);
}

static cJSON *describe_row(const zds_option *option)
{
    cJSON *row = cJSON_CreateObject();
    const char *preset = option->default_value;
    bool is_enum = option->type == ZDS_OPTION_ENUM;
    bool whole =
        add_text(row, "name", option->name) &&
        add_text(row, "type", table_type_name(option->type)) &&
        json_add(row, "default", preset ? cJSON_Parse(preset) : cJSON_CreateNull()) &&
        add_bound(row, "min", option, option->min) && add_bound(row, "max", option, option->max) &&
        add_flag(row, "above_min", option, ZDS_OPTION_ABOVE_MIN) &&
        add_flag(row, "below_max", option, ZDS_OPTION_BELOW_MAX) &&
        json_add(row, "choices", is_enum ? choices_array(option->choices) : cJSON_CreateNull()) &&
        (option->type != ZDS_OPTION_FLOATS ||
         json_add(row, "count", cJSON_CreateNumber(option->count))) &&
        add_text(row, "auto_from", option->auto_from) &&
        add_flag(row, "required", option, ZDS_OPTION_REQUIRED) &&
        add_flag(row, "nullable", option, ZDS_OPTION_NULLABLE) &&
        add_flag(row, "no_effect", option, ZDS_OPTION_NO_EFFECT) &&
        add_text(row, "doc", option->doc ? option->doc : "");
    return json_whole(row, whole);
}

cJSON *options_describe(const zds_plugin *plugin)
{
    cJSON *rows = cJSON_CreateArray();
    bool whole = rows != NULL;
    for (size_t i = 0; whole && i < plugin->option_count; i++)
        whole = json_append(rows, describe_row(table_row(plugin, i)));
    return json_whole(rows, whole);
}
