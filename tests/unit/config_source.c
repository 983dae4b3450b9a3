/* Reading a config's text: what DeepSpeed's Hjson accepts, places, duplicate keys, limits. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/source.h"

static source *parse(const char *text)
{
    source *src = NULL;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = source_parse("f", text, strlen(text), &src, &error);
    cr_assert_eq(status, ZDS_OK, "%s: %s", text, error.text);
    return src;
}

/* The text is read as the JSON `wanted`. */
static void reads_as(const char *text, const char *wanted)
{
    source *src = parse(text);
    cJSON *tree = cJSON_Parse(wanted);
    cr_assert(tree);
    char *printed = cJSON_PrintUnformatted(source_tree(src));
    cr_expect(cJSON_Compare(source_tree(src), tree, true), "%s was read as %s", text, printed);
    cJSON_free(printed);
    cJSON_Delete(tree);
    source_destroy(src);
}

/* Refused, with this text somewhere in the message. */
static void refused(const char *text, const char *wanted)
{
    source *src = NULL;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = source_parse("f", text, strlen(text), &src, &error);
    cr_expect_eq(status, ZDS_ERR_FORMAT, "%s was accepted", text);
    cr_expect_null(src);
    if (error.text)
        cr_expect(strstr(error.text, wanted), "%s: \"%s\" has no \"%s\"", text, error.text, wanted);
    zds_error_clear(&error);
    source_destroy(src);
}

/* What the hjson package (3.1.0) makes of these texts. */
Test(config_source, hjson)
{
    reads_as("", "{}");
    reads_as("  # only a comment", "{}");
    reads_as("{\"a\": 1, \"b\": [1, 2.5, -3e2]}", "{\"a\":1,\"b\":[1,2.5,-300]}");
    reads_as("\xef\xbb\xbf{a: 1}", "{\"a\":1}");
    reads_as("a: 1\nb: text without quotes, with a comma\n",
             "{\"a\":1,\"b\":\"text without quotes, with a comma\"}");
    reads_as("{a: 1 // c\n b: 2 # d\n c: /* e */ 3 /* f */}", "{\"a\":1,\"b\":2,\"c\":3}");
    reads_as("{a: [1, 2,], b: {c: null,},}", "{\"a\":[1,2],\"b\":{\"c\":null}}");
    reads_as("{a: [1\n2\n]\nb: {}}", "{\"a\":[1,2],\"b\":{}}");
    reads_as("{'a': 'it\\'s', \"b\": \"\\u00e9\\ud83d\\ude00\\n\"}",
             "{\"a\":\"it's\",\"b\":\"\xc3\xa9\xf0\x9f\x98\x80\\n\"}");
    reads_as("{a: true, b: false , c: null }", "{\"a\":true,\"b\":false,\"c\":null}");
    reads_as("{a: trueish\n b: 1x\n c: 01\n d: .5\n e: 1.\n f: -\n}",
             "{\"a\":\"trueish\",\"b\":\"1x\",\"c\":\"01\",\"d\":\".5\",\"e\":\"1.\",\"f\":\"-\"}");
    reads_as("{\n  a: '''\n    one\n    two\n    '''\n}", "{\"a\":\"one\\ntwo\"}");
    reads_as("{a: '''x''y'''}", "{\"a\":\"x''y\"}");
    reads_as("{\"a b\": 1, 'c.d': 2}", "{\"a b\":1,\"c.d\":2}");
    reads_as("{a: http://x.y/z\n}", "{\"a\":\"http://x.y/z\"}");
}

Test(config_source, refusals)
{
    refused("{", "f:1:2: error: the text ends");
    refused("{\"a\": 1", "closing }");
    refused("{\"a\": }", "f:1:7: error: a value is missing");
    refused("{\"a\" 1}", "':' is missing");
    refused("{a b: 1}", "no ':' after this key");
    refused("{: 1}", "without a key");
    refused("{\"a\": 1}}", "f:1:9: error: something follows");
    refused("[1]", "is an object");
    refused("{\"a\": \"x\ny\"}", "f:1:7: error: a string that does not end");
    refused("{\"a\": \"\\q\"}", "escape");
    refused("{\"a\": \"\\ud800\"}", "surrogate");
    refused("{\"a\": \"\\u0000\"}", "\\u0000");
    refused("{\"a\": 1e999}", "too large");
    refused("{/* }", "comment that does not end");
    refused("{\"a\": \"\xff\"}", "f:1:8: error: not UTF-8");
    refused("{\"a\": '''x}", "does not end");
    refused("{\n\"a\": tru, \"b\": 1}", "the value at 2:6 has no quotes");
    refused("{a: [1, 2}", "value is missing");
}

Test(config_source, a_nul_byte_is_refused)
{
    source *src = NULL;
    cr_expect_eq(source_parse("f", "{}\0{}", 5, &src, NULL), ZDS_ERR_FORMAT);
}

Test(config_source, places_count_characters)
{
    source *src = parse("{\n  \"\xc3\xa9\": \"\xc3\xa9\", \"b\": 1,\n\tc: x\n}");
    const cJSON *tree = source_tree(src), *b = cJSON_GetObjectItem(tree, "b"),
                *c = cJSON_GetObjectItem(tree, "c");
    source_place key = source_key_place(src, b), value = source_value_place(src, b);
    cr_expect_eq(key.line, 2);
    cr_expect_eq(key.column, 13);
    cr_expect_eq(value.line, 2);
    cr_expect_eq(value.column, 18);
    cr_expect_eq(source_key_place(src, c).line, 3);
    cr_expect_eq(source_key_place(src, c).column, 2);
    cr_expect(source_is_quoteless(src, c));
    cr_expect_not(source_is_quoteless(src, b));
    source_destroy(src);
}

Test(config_source, duplicates_have_both_places)
{
    source *src = parse("{\"a\": 1,\n \"s\": {\"x\": 1, \"y\": 2,\n \"x\": 3}, \"a\": 4}");
    size_t count;
    const source_duplicate *d = source_duplicates(src, &count);
    cr_assert_eq(count, 2);
    cr_expect_str_eq(d[0].path, "s.x");
    cr_expect_eq(d[0].first.line, 2);
    cr_expect_eq(d[0].first.column, 8);
    cr_expect_eq(d[0].second.line, 3);
    cr_expect_str_eq(d[1].path, "a");
    cr_expect_eq(cJSON_GetObjectItem(source_tree(src), "a")->valuedouble, 4);
    source_destroy(src);
}

Test(config_source, many_keys_of_one_object_are_told_apart)
{
    enum { KEYS = 20000 };
    char *text = malloc(KEYS * 16 + 32), *p = text + sprintf(text, "{");
    for (int i = 0; i < KEYS; i++)
        p += sprintf(p, "k%d:%d\n", i, i);
    strcpy(p, "k77: 1}");
    source *src = parse(text);
    size_t count;
    const source_duplicate *d = source_duplicates(src, &count);
    cr_assert_eq(count, 1);
    cr_expect_str_eq(d[0].path, "k77");
    source_destroy(src);
    free(text);
}

Test(config_source, limits)
{
    char *text = malloc(SOURCE_MAX_BYTES + 2);
    memset(text, ' ', SOURCE_MAX_BYTES + 1);
    text[SOURCE_MAX_BYTES + 1] = '\0';
    refused(text, "MiB");
    for (int i = 0; i < SOURCE_MAX_DEPTH + 1; i++)
        memcpy(text + 3 * i, "{a:", 3);
    text[3 * (SOURCE_MAX_DEPTH + 1)] = '\0';
    refused(text, "levels of nesting");
    char *p = text + sprintf(text, "{a:[");
    for (int i = 0; i < SOURCE_MAX_VALUES; i++)
        p = stpcpy(p, "1,");
    strcpy(p, "]}");
    refused(text, "more values");
    free(text);
}
