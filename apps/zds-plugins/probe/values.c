/* Values for a plugin's options: what its table demands, each edge of what it allows, and what
 * `create` makes of them. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "area.h"
#include "bench.h"
#include "host/error.h"
#include "plugin/fault.h"
#include "plugin/options.h"
#include "plugin/table.h"

/* A number inside the range of the option. */
static double inner_number(const zds_option *option)
{
    bool low = isfinite(option->min), high = isfinite(option->max);
    double step = option->type == ZDS_OPTION_INT ? 1000 : 1;
    double number = low && high ? (option->min + option->max) / 2
                    : low       ? option->min + step
                    : high      ? option->max - step
                                : step;
    return option->type == ZDS_OPTION_INT ? floor(number) : number;
}

static cJSON *choice(const zds_option *option, size_t i)
{
    const char *word = option->choices;
    for (; i > 0 && word; i--) {
        word = strchr(word, '|');
        word += word != NULL;
    }
    char *text = word ? strndup(word, strcspn(word, "|")) : NULL;
    cJSON *value = text ? cJSON_CreateString(text) : NULL;
    free(text);
    return value;
}

/* The number in as many elements as the option has. */
static cJSON *numbers(const zds_option *option, double number)
{
    if (option->type != ZDS_OPTION_FLOATS)
        return cJSON_CreateNumber(number);
    cJSON *array = cJSON_CreateArray();
    for (uint32_t i = 0; i < option->count; i++)
        cJSON_AddItemToArray(array, cJSON_CreateNumber(number));
    return array;
}

/* A value for an option that has no default. */
static cJSON *inner_value(const zds_option *option)
{
    switch (option->type) {
    case ZDS_OPTION_BOOL:
        return cJSON_CreateTrue();
    case ZDS_OPTION_STRING:
        return cJSON_CreateString("text");
    case ZDS_OPTION_ENUM:
        return choice(option, 0);
    default:
        return numbers(option, inner_number(option));
    }
}

cJSON *values_required(const zds_plugin *plugin)
{
    cJSON *params = cJSON_CreateObject();
    for (size_t i = 0; i < plugin->option_count; i++) {
        const zds_option *option = table_row(plugin, i);
        if (option->flags & ZDS_OPTION_REQUIRED)
            cJSON_AddItemToObject(params, option->name, inner_value(option));
    }
    return params;
}

static bool is_ranged(const zds_option *option)
{
    return option->type == ZDS_OPTION_INT || option->type == ZDS_OPTION_FLOAT ||
           option->type == ZDS_OPTION_FLOATS || option->type == ZDS_OPTION_FLOAT_LIST;
}

/* The k-th other value of an option that may lead a step elsewhere; NULL past the last. */
static cJSON *other_value(const zds_option *option, size_t k)
{
    if (option->flags & ZDS_OPTION_NO_EFFECT)
        return NULL;
    if (option->type == ZDS_OPTION_BOOL)
        return k < 2 ? cJSON_CreateBool(k == 0) : NULL;
    if (option->type == ZDS_OPTION_ENUM)
        return choice(option, k);
    if (option->type == ZDS_OPTION_INT && isfinite(option->min))
        return k < 2 ? cJSON_CreateNumber(option->min + (double)(k + 1)) : NULL;
    return is_ranged(option) && k == 0 ? numbers(option, inner_number(option)) : NULL;
}

static cJSON *with_value(const zds_plugin *plugin, const zds_option *option, cJSON *value,
                         char **label)
{
    char *shown = cJSON_PrintUnformatted(value);
    *label = text_format("%s = %.60s", option->name, shown ? shown : "?");
    cJSON_free(shown);
    cJSON *params = values_required(plugin);
    cJSON_DeleteItemFromObjectCaseSensitive(params, option->name);
    cJSON_AddItemToObject(params, option->name, value);
    return params;
}

cJSON *values_variant(const zds_plugin *plugin, size_t i, char **label)
{
    *label = NULL;
    if (i-- == 0) {
        *label = strdup("the defaults");
        return values_required(plugin);
    }
    for (size_t o = 0; o < plugin->option_count; o++) {
        cJSON *value;
        for (size_t k = 0; (value = other_value(table_row(plugin, o), k)) != NULL; k++) {
            if (i-- == 0)
                return with_value(plugin, table_row(plugin, o), value, label);
            cJSON_Delete(value);
        }
    }
    return NULL;
}

static void keep_problem(void *user, const char *key, const char *message)
{
    char **text = user;
    free(*text);
    *text = text_format("%s %s", key, message);
}

void *values_options(const zds_plugin *plugin, const cJSON *values, char **fault)
{
    char *problem = NULL;
    void *options = options_create(plugin, values, keep_problem, &problem);
    if (!options)
        *fault = fault_format("%s", problem ? problem : "there is no memory for the options");
    free(problem);
    return options;
}

/* === create === */

/* Makes and drops an instance. `must`: these values have to be accepted. */
static char *try_values(bench *b, const maker *m, const cJSON *values, bool must)
{
    char *fault = NULL;
    void *options = values_options(b->plugin, values, &fault), *self = NULL;
    if (!options)
        return fault;
    bench_clear(b);
    zds_status status = m->make(b, options, &self);
    if (status == ZDS_OK)
        m->drop(b, self);
    else if (!b->error || must)
        fault = bench_failure(b, "create", status);
    options_destroy(options);
    return fault;
}

/* The number of the first variant that is accepted; `none` if there is none. */
static size_t first_variant(bench *b, const maker *m, size_t none)
{
    char *label = NULL;
    cJSON *values;
    for (size_t i = 0; (values = values_variant(b->plugin, i, &label)) != NULL; i++) {
        char *fault = try_values(b, m, values, true);
        bool accepted = !fault;
        fault_free(fault);
        cJSON_Delete(values);
        free(label);
        if (accepted)
            return i;
    }
    free(label);
    return none;
}

const cJSON *values_first(bench *b, const maker *m)
{
    char *label = NULL;
    if (!b->values)
        b->values = values_variant(b->plugin, first_variant(b, m, 0), &label);
    free(label);
    return b->values;
}

char *values_defaults(bench *b, const maker *m)
{
    char *label;
    cJSON *values = values_variant(b->plugin, 0, &label);
    char *fault = try_values(b, m, values, true);
    free(label);
    cJSON_Delete(values);
    const size_t i = fault && b->error ? first_variant(b, m, 0) : 0;
    if (i == 0)
        return fault;
    cJSON_Delete(values_variant(b->plugin, i, &label));
    b->note = fault_format("refuses its defaults, but not %s: %s", label ? label : "?", fault);
    free(label);
    fault_free(fault);
    return NULL;
}

/* Values that a table may or may not allow, as JSON texts. */
static const char *const extremes[] = {
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1e308",
    "-1e308",
    "1e-308",
    "9007199254740992",
    "\"\"",
    "[]",
    "[0]",
    "[0,0]",
    "\"a text that is longer than most buffers in which it might be copied, and so on\""};

static char *try_value(bench *b, const maker *m, const zds_option *option, cJSON *value)
{
    char *label;
    cJSON *values = with_value(b->plugin, option, value, &label);
    bench_at("with %s", label ? label : option->name);
    char *fault =
        options_check(b->plugin, values, NULL, NULL) ? NULL : try_values(b, m, values, false);
    fault = bench_within(fault, "with %s", label ? label : option->name);
    cJSON_Delete(values);
    free(label);
    return fault;
}

static char *try_option(bench *b, const maker *m, const zds_option *option)
{
    char *fault = NULL;
    cJSON *value;
    for (size_t k = 0; !fault && (value = other_value(option, k)) != NULL; k++)
        fault = try_value(b, m, option, value);
    const double bounds[] = {option->min, option->max};
    for (size_t i = 0; !fault && is_ranged(option) && i < 2; i++)
        if (isfinite(bounds[i]))
            fault = try_value(b, m, option, numbers(option, bounds[i]));
    for (size_t i = 0; !fault && i < sizeof extremes / sizeof *extremes; i++)
        fault = try_value(b, m, option, cJSON_Parse(extremes[i]));
    return fault;
}

char *values_edges(bench *b, const maker *m)
{
    char *fault = NULL;
    for (size_t i = 0; !fault && i < b->plugin->option_count; i++)
        fault = try_option(b, m, table_row(b->plugin, i));
    return fault;
}
