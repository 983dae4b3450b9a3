/* JSON text that the library gave, looked into. */
#ifndef TESTS_UNIT_JSON_H
#define TESTS_UNIT_JSON_H

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdlib.h>

/* Frees the text; NULL stays NULL. The caller deletes the tree. */
static inline cJSON *take_json(char *text)
{
    cJSON *tree = text ? cJSON_Parse(text) : NULL;
    cr_assert(!text || tree, "no JSON: %s", text);
    free(text);
    return tree;
}

/* The number that the text is, which is freed. */
static inline double take_number(char *text)
{
    cJSON *tree = take_json(text);
    cr_assert(cJSON_IsNumber(tree));
    double number = tree->valuedouble;
    cJSON_Delete(tree);
    return number;
}

/* Expects this text, which is freed. */
static inline void expect_text(char *text, const char *wanted)
{
    cr_expect(text && strcmp(text, wanted) == 0, "%s, not %s", text ? text : "nothing", wanted);
    free(text);
}

#endif
