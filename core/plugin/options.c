/* A plugin's options struct, filled from JSON by the plugin's own table. */
#include "plugin/options.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "host/error.h"
#include "host/nearest.h"
#include "plugin/fault.h"
#include "plugin/table.h"

/* Something that a value points to: a string or numbers. */
typedef struct piece {
    struct piece *next;
    double bytes[]; /* aligned for both */
} piece;

/* The struct that the plugin sees starts right behind this one. */
struct option_store {
    _Alignas(64) piece *pieces;
};

static void *place_of(const zds_option *option, option_store *store)
{
    return (char *)(store + 1) + option->offset;
}

static void *piece_add(option_store *store, size_t bytes)
{
    piece *added = malloc(sizeof *added + bytes);
    if (!added)
        return NULL;
    added->next = store->pieces;
    store->pieces = added;
    return added->bytes;
}

static char *out_of_memory(void)
{
    return fault_no_memory();
}

/* "must be <wanted>, not <value as the user wrote it>" */
static char *not_wanted(const char *wanted, const cJSON *value)
{
    char *shown = cJSON_PrintUnformatted(value);
    char *text = fault_format("must be %s, not %.60s%s", wanted, shown ? shown : "this",
                              shown && strlen(shown) > 60 ? "..." : "");
    cJSON_free(shown);
    return text;
}

static char *check_range(const zds_option *option, const cJSON *value)
{
    double number = value->valuedouble;
    bool low = option->flags & ZDS_OPTION_ABOVE_MIN ? number <= option->min : number < option->min;
    bool high = option->flags & ZDS_OPTION_BELOW_MAX ? number >= option->max : number > option->max;
    if (!low && !high)
        return NULL;
    char bounds[96] = "";
    if (isfinite(option->min))
        snprintf(bounds, sizeof bounds, "%s %.10g",
                 option->flags & ZDS_OPTION_ABOVE_MIN ? "above" : "at least", option->min);
    size_t used = strlen(bounds);
    if (isfinite(option->max))
        snprintf(bounds + used, sizeof bounds - used, "%s%s %.10g", used ? " and " : "",
                 option->flags & ZDS_OPTION_BELOW_MAX ? "below" : "at most", option->max);
    return not_wanted(bounds, value);
}

static char *read_number(const zds_option *option, const cJSON *value, const char *wanted,
                         double *out)
{
    if (cJSON_IsNull(value) && option->flags & ZDS_OPTION_NULLABLE) {
        *out = NAN;
        return NULL;
    }
    if (!cJSON_IsNumber(value) || !isfinite(value->valuedouble))
        return not_wanted(wanted, value);
    *out = value->valuedouble;
    return check_range(option, value);
}

static char *read_int(const zds_option *option, const cJSON *value, option_store *store)
{
    double number = NAN;
    char *wrong = read_number(option, value, "an integer", &number);
    if (wrong)
        return wrong;
    if (!isnan(number) && (number != floor(number) || fabs(number) > 0x1p53))
        return not_wanted("an integer", value);
    if (store)
        *(int64_t *)place_of(option, store) = isnan(number) ? INT64_MIN : (int64_t)number;
    return NULL;
}

static char *read_string(const zds_option *option, const cJSON *value, option_store *store)
{
    bool null = cJSON_IsNull(value) && option->flags & ZDS_OPTION_NULLABLE;
    if (!null && !cJSON_IsString(value))
        return not_wanted("a string", value);
    if (!store || null)
        return NULL; /* the struct comes zeroed */
    size_t bytes = strlen(value->valuestring) + 1;
    char *copy = piece_add(store, bytes);
    if (!copy)
        return out_of_memory();
    memcpy(copy, value->valuestring, bytes);
    *(const char **)place_of(option, store) = copy;
    return NULL;
}

/* The index of `word` among "a|b|c", or -1. */
static int64_t choice_index(const char *choices, const char *word)
{
    size_t length = strlen(word);
    for (int64_t i = 0; choices; i++) {
        const char *end = strchrnul(choices, '|');
        if ((size_t)(end - choices) == length && strncasecmp(choices, word, length) == 0)
            return i;
        choices = *end ? end + 1 : NULL;
    }
    return -1;
}

static char *read_enum(const zds_option *option, const cJSON *value, option_store *store)
{
    int64_t index = INT64_MIN;
    if (!cJSON_IsNull(value) || !(option->flags & ZDS_OPTION_NULLABLE)) {
        index = cJSON_IsString(value) ? choice_index(option->choices, value->valuestring) : -1;
        if (index < 0) {
            char *wanted = text_format("one of %s", option->choices);
            char *text = not_wanted(wanted ? wanted : "one of its choices", value);
            free(wanted);
            return text;
        }
    }
    if (store)
        *(int64_t *)place_of(option, store) = index;
    return NULL;
}

static char *read_floats(const zds_option *option, const cJSON *value, option_store *store)
{
    char wanted[48];
    snprintf(wanted, sizeof wanted, "an array of %u numbers", option->count);
    bool null = cJSON_IsNull(value) && option->flags & ZDS_OPTION_NULLABLE;
    if (!null && (!cJSON_IsArray(value) || (uint32_t)cJSON_GetArraySize(value) != option->count))
        return not_wanted(wanted, value);
    const cJSON *element = null ? NULL : value->child;
    for (uint32_t i = 0; i < option->count; i++) {
        double number = NAN;
        char *wrong = element ? read_number(option, element, wanted, &number) : NULL;
        if (wrong)
            return wrong;
        if (store)
            ((double *)place_of(option, store))[i] = number;
        element = element ? element->next : NULL;
    }
    return NULL;
}

static char *read_float_list(const zds_option *option, const cJSON *value, option_store *store)
{
    static const char *const wanted = "a number or an array of numbers";
    bool null = cJSON_IsNull(value) && option->flags & ZDS_OPTION_NULLABLE;
    bool array = cJSON_IsArray(value);
    size_t count = null ? 0 : array ? (size_t)cJSON_GetArraySize(value) : 1;
    if (array && count == 0)
        return not_wanted(wanted, value);
    double *values = store ? piece_add(store, count * sizeof *values) : NULL;
    if (store && !values)
        return out_of_memory();
    const cJSON *element = array ? value->child : value;
    for (size_t i = 0; i < count; i++, element = element->next) {
        double number;
        char *wrong = read_number(option, element, wanted, &number);
        if (wrong)
            return wrong;
        if (values)
            values[i] = number;
    }
    if (store)
        *(zds_float_list *)place_of(option, store) = (zds_float_list){count, values};
    return NULL;
}

/* "auto" that nothing has filled. A free string, or a choice of that name, may be meant so. */
static bool is_leftover_auto(const zds_option *option, const cJSON *value)
{
    if (!cJSON_IsString(value) || strcmp(value->valuestring, "auto") != 0)
        return false;
    if (option->auto_from)
        return true;
    return option->type != ZDS_OPTION_STRING &&
           !(option->type == ZDS_OPTION_ENUM && choice_index(option->choices, "auto") >= 0);
}

char *option_read(const zds_option *option, const cJSON *value, option_store *store)
{
    if (is_leftover_auto(option, value))
        return option->auto_from
                   ? fault_format(
                         "\"auto\" takes the training argument %s, which this run does not "
                         "have; write the value here",
                         option->auto_from)
                   : fault_format("\"auto\" is not possible here; write the value");
    double number = NAN;
    char *wrong;
    switch (option->type) {
    case ZDS_OPTION_BOOL:
        if (!cJSON_IsBool(value))
            return not_wanted("true or false", value);
        if (store)
            *(bool *)place_of(option, store) = cJSON_IsTrue(value);
        return NULL;
    case ZDS_OPTION_INT:
        return read_int(option, value, store);
    case ZDS_OPTION_FLOAT:
        wrong = read_number(option, value, "a number", &number);
        if (!wrong && store)
            *(double *)place_of(option, store) = number;
        return wrong;
    case ZDS_OPTION_STRING:
        return read_string(option, value, store);
    case ZDS_OPTION_ENUM:
        return read_enum(option, value, store);
    case ZDS_OPTION_FLOATS:
        return read_floats(option, value, store);
    case ZDS_OPTION_FLOAT_LIST:
        return read_float_list(option, value, store);
    default: /* table_fault has refused the plugin */
        return fault_format("has an unknown type (%d) in the plugin's table", option->type);
    }
}

/* Where problems go, and how many there were. */
typedef struct reporter {
    options_problem_fn problem;
    void *user;
    size_t count;
} reporter;

/* Takes over `text`. */
static void report(reporter *to, const char *key, char *text)
{
    to->count++;
    if (to->problem)
        to->problem(to->user, key, text);
    fault_free(text);
}

const char *const options_of_pytorch[] = {"foreach", "fused", "capturable", "differentiable", NULL};

/* True if `item` is such
 * an option, told unless it is off. */
static bool is_of_pytorch(const cJSON *item, reporter *to)
{
    size_t i = 0;
    while (options_of_pytorch[i] && strcmp(item->string, options_of_pytorch[i]) != 0)
        i++;
    if (!options_of_pytorch[i])
        return false;
    if (!cJSON_IsNull(item) && !cJSON_IsFalse(item))
        report(to, item->string,
               fault_format("chooses how PyTorch computes, which zds does its own way; delete it"));
    return true;
}

static void report_unknown(reporter *to, const zds_plugin *plugin, const char *key)
{
    const char *nearest = NULL;
    char *known = NULL;
    for (size_t i = 0; i < plugin->option_count; i++) {
        const char *name = table_row(plugin, i)->name;
        if (name_is_near(key, name) &&
            (!nearest || name_distance(key, name) < name_distance(key, nearest)))
            nearest = name;
        text_append(&known, ", ", "%s", name);
    }
    if (nearest)
        report(to, key,
               fault_format("is no option of %s; did you mean %s?", plugin->name, nearest));
    else if (plugin->option_count)
        report(to, key, fault_format("is no option of %s, which has %s", plugin->name, known));
    else
        report(to, key, fault_format("is no option of %s, which has none", plugin->name));
    free(known);
}

static void read_option(const zds_option *option, const cJSON *value, option_store *store,
                        reporter *to)
{
    cJSON *preset = NULL;
    if (!value && option->flags & ZDS_OPTION_REQUIRED) {
        report(to, option->name, fault_format("is missing, and has no default"));
        return;
    }
    if (!value)
        value = preset = cJSON_Parse(option->default_value);
    char *wrong = value ? option_read(option, value, store) : out_of_memory();
    if (wrong)
        report(to, option->name, wrong);
    cJSON_Delete(preset);
}

static void read_all(const zds_plugin *plugin, const cJSON *params, option_store *store,
                     reporter *to)
{
    if (params && !cJSON_IsObject(params)) {
        report(to, "params", not_wanted("an object", params));
        return;
    }
    for (size_t i = 0; i < plugin->option_count; i++) {
        const zds_option *option = table_row(plugin, i);
        read_option(option, cJSON_GetObjectItemCaseSensitive(params, option->name), store, to);
    }
    for (const cJSON *item = params ? params->child : NULL; item; item = item->next)
        if (!options_find(plugin, item->string) && !is_of_pytorch(item, to))
            report_unknown(to, plugin, item->string);
}

void *options_create(const zds_plugin *plugin, const cJSON *params, options_problem_fn problem,
                     void *user)
{
    reporter to = {problem, user, 0};
    size_t align = _Alignof(option_store);
    size_t bytes = sizeof(option_store) + (plugin->options_size + align - 1) / align * align;
    option_store *store = aligned_alloc(align, bytes);
    if (!store) {
        report(&to, "params", fault_format("there is no memory for the options"));
        return NULL;
    }
    memset(store, 0, bytes);
    read_all(plugin, params, store, &to);
    if (to.count) {
        options_destroy(store + 1);
        return NULL;
    }
    return store + 1;
}

void options_destroy(void *options)
{
    if (!options)
        return;
    option_store *store = (option_store *)options - 1;
    for (piece *p = store->pieces, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    free(store);
}

size_t options_check(const zds_plugin *plugin, const cJSON *params, options_problem_fn problem,
                     void *user)
{
    reporter to = {problem, user, 0};
    read_all(plugin, params, NULL, &to);
    return to.count;
}

const zds_option *options_find(const zds_plugin *plugin, const char *name)
{
    for (size_t i = 0; i < plugin->option_count; i++)
        if (strcmp(table_row(plugin, i)->name, name) == 0)
            return table_row(plugin, i);
    return NULL;
}

bool options_floats(const zds_plugin *plugin, const void *options, const char *name, double *out,
                    size_t count)
{
    const zds_option *option = options_find(plugin, name);
    if (!option || !(option->type == ZDS_OPTION_FLOAT
                         ? count == 1
                         : option->type == ZDS_OPTION_FLOATS && count == option->count))
        return false;
    memcpy(out, (const char *)options + option->offset, count * sizeof *out);
    return true;
}

zds_hyper options_hyper(const zds_plugin *plugin, const void *options)
{
    double betas[3] = {NAN, NAN, NAN};
    zds_hyper h = {.struct_size = sizeof h, .lr = NAN, .momentum = NAN, .weight_decay = NAN};
    options_floats(plugin, options, "lr", &h.lr, 1);
    options_floats(plugin, options, "momentum", &h.momentum, 1);
    options_floats(plugin, options, "weight_decay", &h.weight_decay, 1);
    if (!options_floats(plugin, options, "betas", betas, 3))
        options_floats(plugin, options, "betas", betas, 2);
    h.beta1 = betas[0];
    h.beta2 = betas[1];
    h.beta3 = betas[2];
    return h;
}

/* === groups === */

static const char *const group_names[] = {"lr", "betas", "momentum", "weight_decay"};
enum { GROUP_NAMES = sizeof group_names / sizeof *group_names };

/* The option of that name, if a group may have a value of its own for it. */
static const zds_option *group_option(const zds_plugin *plugin, const char *name)
{
    bool listed = false;
    for (size_t i = 0; i < GROUP_NAMES; i++)
        listed |= strcmp(group_names[i], name) == 0;
    const zds_option *option = listed ? options_find(plugin, name) : NULL;
    bool betas = option && strcmp(name, "betas") == 0;
    bool fits = option && option->type == (betas ? ZDS_OPTION_FLOATS : ZDS_OPTION_FLOAT);
    return fits ? option : NULL;
}

static void set_hyper(zds_hyper *hyper, const char *name, const cJSON *value)
{
    if (cJSON_IsNull(value))
        return;
    if (strcmp(name, "betas") == 0) {
        hyper->beta1 = value->child->valuedouble;
        hyper->beta2 = value->child->next->valuedouble;
        if (value->child->next->next)
            hyper->beta3 = value->child->next->next->valuedouble;
    } else if (strcmp(name, "lr") == 0) {
        hyper->lr = value->valuedouble;
    } else if (strcmp(name, "momentum") == 0) {
        hyper->momentum = value->valuedouble;
    } else {
        hyper->weight_decay = value->valuedouble;
    }
}

static void report_not_of_groups(reporter *to, const zds_plugin *plugin, const char *key)
{
    char *own = NULL;
    const char *near = NULL;
    for (size_t i = 0; i < GROUP_NAMES; i++) {
        if (!group_option(plugin, group_names[i]))
            continue;
        text_append(&own, ", ", "%s", group_names[i]);
        if (name_is_near(key, group_names[i]))
            near = group_names[i];
    }
    const char *list = own ? own : "nothing";
    if (options_find(plugin, key))
        report(to, key,
               fault_format("of %s is the same for all parameters; a group has %s of its own",
                            plugin->name, list));
    else if (near)
        report(to, key, fault_format("is no option of %s; did you mean %s?", plugin->name, near));
    else
        report(to, key,
               fault_format("is no option of %s; a group has %s of its own", plugin->name, list));
    free(own);
}

size_t options_group(const zds_plugin *plugin, const cJSON *group, zds_hyper *hyper,
                     options_problem_fn problem, void *user)
{
    reporter to = {problem, user, 0};
    for (const cJSON *item = group->child; item; item = item->next) {
        if (strcmp(item->string, "params") == 0)
            continue;
        const zds_option *option = group_option(plugin, item->string);
        if (option && cJSON_IsNull(item)) /* as if it were not there */
            continue;
        char *wrong = option ? option_read(option, item, NULL) : NULL;
        if (!option)
            report_not_of_groups(&to, plugin, item->string);
        else if (wrong)
            report(&to, item->string, wrong);
        else if (hyper)
            set_hyper(hyper, item->string, item);
    }
    return to.count;
}
