/* Options tables: values, defaults, ranges, all problems at once, and faults of the table itself.
 */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/nearest.h"
#include "plugin/fault.h"
#include "plugin/options.h"
#include "plugin/table.h"

typedef struct sample {
    bool flag;
    int64_t count, maybe, mode;
    double rate, betas[2], limit;
    const char *path;
    zds_float_list rates;
} sample;

#define AT(field) .offset = offsetof(sample, field)
#define ANY       .min = -INFINITY, .max = INFINITY

static const zds_option table[] = {
    {"flag", ZDS_OPTION_BOOL, AT(flag), .default_value = "true"},
    {"count", ZDS_OPTION_INT, AT(count), .flags = ZDS_OPTION_REQUIRED, .min = 1, .max = 8},
    {"maybe", ZDS_OPTION_INT, AT(maybe), .flags = ZDS_OPTION_NULLABLE, .default_value = "null",
     ANY},
    {"mode", ZDS_OPTION_ENUM, AT(mode), .choices = "log|linear", .default_value = "\"linear\""},
    {"rate", ZDS_OPTION_FLOAT, AT(rate), .flags = ZDS_OPTION_ABOVE_MIN, .default_value = "1e-3",
     .min = 0, .max = INFINITY, .auto_from = "learning_rate"},
    {"betas", ZDS_OPTION_FLOATS, AT(betas), .flags = ZDS_OPTION_BELOW_MAX, .count = 2,
     .default_value = "[0.9, 0.999]", .min = 0, .max = 1},
    {"limit", ZDS_OPTION_FLOAT, AT(limit), .flags = ZDS_OPTION_NULLABLE, .default_value = "null",
     ANY},
    {"path", ZDS_OPTION_STRING, AT(path), .flags = ZDS_OPTION_NULLABLE, .default_value = "null"},
    {"rates", ZDS_OPTION_FLOAT_LIST, AT(rates), .default_value = "0", ANY},
};

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_OPTIM,
                                  .name = "Sample",
                                  .options = table,
                                  .option_stride = sizeof table[0],
                                  .option_count = sizeof table / sizeof table[0],
                                  .options_size = sizeof(sample)};

/* Problems as "key: message\n", in order. */
static void collect(void *user, const char *key, const char *message)
{
    char *all = user;
    size_t used = strlen(all);
    snprintf(all + used, 2048 - used, "%s: %s\n", key, message);
}

static sample *make(const char *json, char problems[2048])
{
    problems[0] = '\0';
    cJSON *params = json ? cJSON_Parse(json) : NULL;
    cr_assert(!json || params, "the test's own JSON: %s", json);
    sample *made = options_create(&plugin, params, collect, problems);
    cJSON_Delete(params); /* what was made must not need it */
    return made;
}

Test(options, defaults)
{
    char problems[2048];
    sample *s = make("{\"count\": 3}", problems);
    cr_assert(s, "%s", problems);
    cr_assert(s->flag);
    cr_assert_eq(s->count, 3);
    cr_assert_eq(s->maybe, INT64_MIN);
    cr_assert_eq(s->mode, 1);
    cr_assert_eq(s->rate, 1e-3);
    cr_assert(s->betas[0] == 0.9 && s->betas[1] == 0.999);
    cr_assert(isnan(s->limit));
    cr_assert_null(s->path);
    cr_assert(s->rates.count == 1 && s->rates.values[0] == 0);
    options_destroy(s);
}

Test(options, values)
{
    char problems[2048];
    sample *s = make("{\"count\": 8, \"flag\": false, \"maybe\": -4, \"mode\": \"LOG\", "
                     "\"rate\": 2, \"betas\": [0, 0.5], \"limit\": 7.5, \"path\": \"/a b\", "
                     "\"rates\": [1, 2.5, 3]}",
                     problems);
    cr_assert(s, "%s", problems);
    cr_assert(!s->flag && s->count == 8 && s->maybe == -4 && s->mode == 0);
    cr_assert(s->rate == 2 && s->betas[0] == 0 && s->betas[1] == 0.5 && s->limit == 7.5);
    cr_assert_str_eq(s->path, "/a b");
    cr_assert(s->rates.count == 3 && s->rates.values[1] == 2.5 && s->rates.values[2] == 3);
    double betas[2], rate;
    cr_assert(options_floats(&plugin, s, "betas", betas, 2) && betas[1] == 0.5);
    cr_assert(options_floats(&plugin, s, "rate", &rate, 1) && rate == 2);
    cr_assert_not(options_floats(&plugin, s, "momentum", &rate, 1));
    cr_assert_not(options_floats(&plugin, s, "count", &rate, 1));
    cr_assert_not(options_floats(&plugin, s, "betas", &rate, 1));
    options_destroy(s);
}

Test(options, all_problems_at_once)
{
    char problems[2048];
    sample *s = make("{\"flag\": 1, \"count\": 9, \"mode\": \"cubic\", \"rate\": 0, "
                     "\"betas\": [0.9, 1], \"path\": 3, \"Rate\": 1, \"weight\": 2}",
                     problems);
    cr_assert_null(s);
    cr_assert_str_eq(problems,
                     "flag: must be true or false, not 1\n"
                     "count: must be at least 1 and at most 8, not 9\n"
                     "mode: must be one of log|linear, not \"cubic\"\n"
                     "rate: must be above 0, not 0\n"
                     "betas: must be at least 0 and below 1, not 1\n"
                     "path: must be a string, not 3\n"
                     "Rate: is no option of Sample; did you mean rate?\n"
                     "weight: is no option of Sample, which has flag, count, maybe, mode, rate, "
                     "betas, limit, path, rates\n");
}

/* One wrong value, and a part of what must be said of it. */
static void wrong(const char *json, const char *part)
{
    char problems[2048];
    cr_assert_null(make(json, problems), "%s was accepted", json);
    cr_assert(strstr(problems, part), "%s: \"%s\" is not in \"%s\"", json, part, problems);
    cJSON *params = cJSON_Parse(json);
    cr_assert_eq(options_check(&plugin, params, NULL, NULL), 1);
    cJSON_Delete(params);
}

Test(options, wrong_values)
{
    wrong("{}", "count: is missing");
    wrong("{\"count\": 1, \"rates\": []}", "a number or an array of numbers, not []");
    wrong("{\"count\": 2.5}", "an integer, not 2.5");
    wrong("{\"count\": \"2\"}", "an integer, not \"2\"");
    wrong("{\"count\": null}", "an integer, not null");
    wrong("{\"count\": 2, \"maybe\": 1e17}", "an integer");
    wrong("{\"count\": 2, \"rate\": null}", "a number, not null");
    wrong("{\"count\": 2, \"rate\": 1e999}", "a number");
    wrong("{\"count\": 2, \"rate\": \"auto\"}", "training argument learning_rate");
    wrong("{\"count\": \"auto\"}", "\"auto\" is not possible here");
    wrong("{\"count\": 2, \"mode\": \"auto\"}", "\"auto\" is not possible here");
    wrong("{\"count\": 2, \"mode\": \"lo\"}", "one of log|linear");
    wrong("{\"count\": 2, \"betas\": [0.9]}", "an array of 2 numbers");
    wrong("{\"count\": 2, \"betas\": 0.9}", "an array of 2 numbers");
    wrong("{\"count\": 2, \"betas\": [0.9, \"x\"]}", "an array of 2 numbers");
    wrong("{\"count\": 2, \"rates\": {}}", "a number or an array of numbers");
    wrong("{\"count\": 2, \"rates\": [1, null]}", "a number or an array of numbers");
    wrong("[1]", "params: must be an object");
}

Test(options, auto_may_be_a_string)
{
    char problems[2048];
    sample *s = make("{\"count\": 2, \"path\": \"auto\"}", problems);
    cr_assert(s, "%s", problems);
    cr_assert_str_eq(s->path, "auto");
    options_destroy(s);
}

/* A table of one option, or two, and a part of what must be wrong with it; NULL: nothing. */
static void fault(const zds_option *rows, size_t count, size_t size, const char *part)
{
    zds_plugin other = plugin;
    other.options = rows;
    other.option_count = count;
    other.options_size = size;
    char *text = table_fault(&other);
    cr_assert_eq(text == NULL, part == NULL, "%s", text ? text : part);
    cr_assert(!part || strstr(text, part), "\"%s\" is not in \"%s\"", part, text);
    fault_free(text);
}

Test(options, faults_of_a_table)
{
    zds_option good = {"x", ZDS_OPTION_FLOAT, .default_value = "1", .max = 2}, bad = good;
    fault(table, sizeof table / sizeof *table, sizeof(sample), NULL);
    fault(&good, 1, 8, NULL);
    fault(&good, 1, 7, "outside the options struct");
    fault(NULL, 1, 8, "options is NULL");
    bad.default_value = "x";
    fault(&bad, 1, 8, "not JSON");
    bad.default_value = "1 2";
    fault(&bad, 1, 8, "not JSON");
    bad.default_value = "3";
    fault(&bad, 1, 8, "must be at least 0 and at most 2, not 3");
    bad.default_value = "\"auto\"";
    fault(&bad, 1, 8, "default that does not fit");
    bad.default_value = NULL;
    fault(&bad, 1, 8, "has no default");
    bad.flags = ZDS_OPTION_REQUIRED;
    fault(&bad, 1, 8, NULL);
    bad.default_value = "1";
    fault(&bad, 1, 8, "is required and has a default");
    bad = good;
    bad.offset = 4;
    fault(&bad, 1, 16, "not aligned");
    bad.offset = SIZE_MAX - 7;
    fault(&bad, 1, 16, "outside the options struct");
    bad = good;
    bad.type = 8;
    fault(&bad, 1, 8, "unknown type 8");
    bad = good;
    bad.min = NAN;
    fault(&bad, 1, 8, "has the range");
    bad = good;
    bad.type = ZDS_OPTION_FLOATS;
    fault(&bad, 1, 8, "has 0 elements");
    bad = good;
    bad.name = NULL;
    fault(&bad, 1, 8, "option 0 has no name");
    bad = (zds_option){"x", ZDS_OPTION_ENUM, .default_value = "\"a\""};
    fault(&bad, 1, 8, "has no choices");
    bad = (zds_option){"x", ZDS_OPTION_BOOL, .default_value = "null", .flags = ZDS_OPTION_NULLABLE};
    fault(&bad, 1, 8, "a bool has no value for null");
    bad = (zds_option){"lr", ZDS_OPTION_INT, .default_value = "1", .max = 1};
    fault(&bad, 1, 8, "\"lr\" of an optimizer must be a float");
    zds_option twice[] = {good, good};
    fault(twice, 2, 16, "is there twice");
    twice[1].name = "y";
    fault(twice, 2, 16, "shares bytes of the options struct with \"x\"");
    twice[1].offset = 8;
    fault(twice, 2, 16, NULL);
}

Test(options, description)
{
    cJSON *rows = options_describe(&plugin);
    cr_assert_eq(cJSON_GetArraySize(rows), sizeof table / sizeof *table);
    cJSON *betas = cJSON_GetArrayItem(rows, 5);
    char *text = cJSON_PrintUnformatted(betas);
    cr_assert_str_eq(text, "{\"name\":\"betas\",\"type\":\"floats\",\"default\":[0.9,0.999],"
                           "\"min\":0,\"max\":1,\"above_min\":false,\"below_max\":true,"
                           "\"choices\":null,\"count\":2,\"auto_from\":null,\"required\":false,"
                           "\"nullable\":false,\"no_effect\":false,\"doc\":\"\"}");
    cJSON_free(text);
    cJSON_Delete(rows);
}

Test(options, distance_of_names)
{
    cr_assert_eq(name_distance("", ""), 0);
    cr_assert_eq(name_distance("", "abc"), 3);
    cr_assert_eq(name_distance("AdamW", "adamw"), 0);
    cr_assert_eq(name_distance("adma", "adam"), 1);
    cr_assert_eq(name_distance("kitten", "sitting"), 3);
    cr_assert_eq(name_distance("ca", "abc"), 3); /* each letter is edited once */
    char longest[65];
    memset(longest, 'a', 64);
    longest[64] = '\0';
    cr_assert_eq(name_distance(longest, "a"), SIZE_MAX);
    cr_assert(name_is_near("lion", "Lion") && name_is_near("lionn", "Lion"));
    cr_assert_not(name_is_near("sgd", "Lion"));
}
