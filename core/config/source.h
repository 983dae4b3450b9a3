/* The text of a config: read as JSON or Hjson into cJSON nodes, with the place of each. */
#ifndef CORE_CONFIG_SOURCE_H
#define CORE_CONFIG_SOURCE_H

#include "zds/config.h"

#include <cjson/cJSON.h>

/* What a config may be at most; more is an error that says so. */
enum {
    SOURCE_MAX_BYTES = 16 << 20,
    SOURCE_MAX_DEPTH = 200,     /* objects and arrays inside one another */
    SOURCE_MAX_VALUES = 50000,  /* values of all kinds */
    SOURCE_MAX_DUPLICATES = 100 /* kept; later ones are dropped */
};

typedef struct source source;

typedef struct source_place {
    int32_t line, column; /* from 1, columns in characters; 0: not known */
} source_place;

/* A key that its object already had: the later value stays in the tree. */
typedef struct source_duplicate {
    char *path;
    source_place first, second;
} source_duplicate;

/* `name`: what messages call the text. Both are copied. On failure `error` gets "name:line:col:
 * error: what", ZDS_ERR_FORMAT or ZDS_ERR_MEMORY. The tree's root is an object. */
zds_status source_parse(const char *name, const char *text, size_t length, source **out,
                        zds_error *error);
/* From a path, text, which messages call `inline_name`, or base64 of text. */
zds_status source_load(const char *from, const char *inline_name, source **src, zds_error *error);
/* The same of training arguments, an object with its braces. */
zds_status source_load_arguments(const char *from, source **src, zds_error *error);
void source_destroy(source *src);

const char *source_name(const source *src);
const char *source_text(const source *src, size_t *length);
cJSON *source_tree(const source *src); /* belongs to the source */
const source_duplicate *source_duplicates(const source *src, size_t *count);

/* Where a value of the tree starts, and where its key does (the value's place in an array). */
source_place source_value_place(const source *src, const cJSON *node);
source_place source_key_place(const source *src, const cJSON *node);
/* Gives the nodes of `copy`, a cJSON_Duplicate of the tree, the same places. False if there is no
 * memory. */
bool source_adopt(source *src, const cJSON *copy);
/* True for a string that the file gives without quotes: it runs to the end of its line. */
bool source_is_quoteless(const source *src, const cJSON *node);

#endif
