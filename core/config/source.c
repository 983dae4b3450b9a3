/* The text of a config read into cJSON nodes, with the place of each, without recursion. */
#include "config/source.h"

#include <stdlib.h>
#include <string.h>

#include "config/scan.h"
#include "host/error.h"

/* Where a node is in the text. The table is a hash of the node's address. */
typedef struct spot {
    const cJSON *node;
    uint32_t value, key; /* offsets */
    bool quoteless;
} spot;

struct source {
    char *name, *text;
    size_t length;
    cJSON *tree;
    spot *spots; /* [mask + 1] */
    size_t mask, count;
    uint32_t *lines; /* [line_count] offset of each line's first byte */
    size_t line_count;
    uint32_t *characters; /* [length / BLOCK + 1] characters before each BLOCK bytes */
    source_duplicate *duplicates;
    size_t duplicate_count;
};

enum { BLOCK = 1024 }; /* so that a column is found fast in a file of one long line */

/* One object or array that is not closed yet. */
typedef struct frame {
    cJSON *node;
    bool braceless; /* the root without braces */
} frame;

typedef struct reader {
    source *src;
    scan scan;
    frame stack[SOURCE_MAX_DEPTH];
    size_t depth;
    char *key; /* of the value being read; NULL in an array */
    size_t key_at;
    size_t quoteless_at; /* of the last string without quotes, for messages; SIZE_MAX: none */
    cJSON **slots;       /* scratch of the search for duplicate keys */
    size_t slot_space;
} reader;

/* === places === */

static size_t hash_pointer(const void *p)
{
    uint64_t x = (uint64_t)(uintptr_t)p * 0x9e3779b97f4a7c15u;
    return (size_t)(x >> 32);
}

static spot *spot_slot(spot *spots, size_t mask, const cJSON *node)
{
    size_t i = hash_pointer(node) & mask;
    while (spots[i].node && spots[i].node != node)
        i = (i + 1) & mask;
    return &spots[i];
}

static bool remember(source *src, const spot *s)
{
    if (!src->spots || src->count * 2 > src->mask) {
        size_t size = src->spots ? (src->mask + 1) * 2 : 256;
        spot *grown = calloc(size, sizeof *grown);
        if (!grown)
            return false;
        for (size_t i = 0; src->spots && i <= src->mask; i++)
            if (src->spots[i].node)
                *spot_slot(grown, size - 1, src->spots[i].node) = src->spots[i];
        free(src->spots);
        src->spots = grown;
        src->mask = size - 1;
    }
    *spot_slot(src->spots, src->mask, s->node) = *s;
    src->count++;
    return true;
}

static const spot *find_spot(const source *src, const cJSON *node)
{
    if (!src || !src->spots || !node)
        return NULL;
    const spot *found = spot_slot(src->spots, src->mask, node);
    return found->node ? found : NULL;
}

static bool starts_character(char byte)
{
    return ((unsigned char)byte & 0xc0) != 0x80;
}

static uint32_t characters_before(const source *src, size_t offset)
{
    uint32_t count = src->characters[offset / BLOCK];
    for (size_t i = offset / BLOCK * BLOCK; i < offset; i++)
        count += starts_character(src->text[i]);
    return count;
}

static source_place place_of(const source *src, size_t offset)
{
    size_t low = 0, high = src->line_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (src->lines[middle] <= offset)
            low = middle;
        else
            high = middle;
    }
    uint32_t column = characters_before(src, offset) - characters_before(src, src->lines[low]) + 1;
    return (source_place){(int32_t)low + 1, (int32_t)column};
}

source_place source_value_place(const source *src, const cJSON *node)
{
    const spot *s = find_spot(src, node);
    return s ? place_of(src, s->value) : (source_place){0, 0};
}

source_place source_key_place(const source *src, const cJSON *node)
{
    const spot *s = find_spot(src, node);
    return s ? place_of(src, s->key) : (source_place){0, 0};
}

bool source_is_quoteless(const source *src, const cJSON *node)
{
    const spot *s = find_spot(src, node);
    return s && s->quoteless;
}

static bool adopt(source *src, const cJSON *original, const cJSON *copy)
{
    for (; original && copy; original = original->next, copy = copy->next) {
        const spot *known = find_spot(src, original);
        if (!known)
            continue;
        spot s = *known;
        s.node = copy;
        if (!remember(src, &s) || !adopt(src, original->child, copy->child))
            return false;
    }
    return true;
}

bool source_adopt(source *src, const cJSON *copy)
{
    return adopt(src, src->tree, copy);
}

static bool index_places(source *src)
{
    size_t lines = 1;
    for (size_t i = 0; i < src->length; i++)
        lines += src->text[i] == '\n';
    src->lines = malloc(lines * sizeof *src->lines);
    src->characters = malloc((src->length / BLOCK + 1) * sizeof *src->characters);
    if (!src->lines || !src->characters)
        return false;
    src->lines[src->line_count++] = 0;
    uint32_t count = 0;
    for (size_t i = 0; i <= src->length; i++) {
        if (i % BLOCK == 0)
            src->characters[i / BLOCK] = count;
        if (i == src->length)
            break;
        count += starts_character(src->text[i]);
        if (src->text[i] == '\n')
            src->lines[src->line_count++] = (uint32_t)i + 1;
    }
    return true;
}

/* === duplicate keys === */

static char *join_path(const reader *r, const char *key)
{
    size_t bytes = strlen(key) + 1;
    for (size_t i = 1; i < r->depth; i++)
        bytes += strlen(r->stack[i].node->string ? r->stack[i].node->string : "[]") + 1;
    char *path = malloc(bytes), *end = path;
    if (!path)
        return NULL;
    for (size_t i = 1; i < r->depth; i++) {
        end = stpcpy(end, r->stack[i].node->string ? r->stack[i].node->string : "[]");
        *end++ = '.';
    }
    strcpy(end, key);
    return path;
}

static bool report_duplicate(reader *r, const cJSON *first, const cJSON *second)
{
    source *src = r->src;
    if (src->duplicate_count == SOURCE_MAX_DUPLICATES)
        return true;
    if (!src->duplicates) {
        src->duplicates = calloc(SOURCE_MAX_DUPLICATES, sizeof *src->duplicates);
        if (!src->duplicates)
            return false;
    }
    char *path = join_path(r, second->string);
    if (!path)
        return false;
    src->duplicates[src->duplicate_count++] =
        (source_duplicate){path, source_key_place(src, first), source_key_place(src, second)};
    return true;
}

static size_t hash_text(const char *text)
{
    uint64_t h = 1469598103934665603u;
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 1099511628211u;
    return (size_t)(h ^ h >> 32);
}

/* Of keys that an object has twice the last stays. */
static bool drop_duplicates(reader *r, cJSON *object)
{
    size_t count = 0, size = 16;
    for (const cJSON *item = object->child; item; item = item->next)
        count++;
    while (size < count * 2)
        size *= 2;
    if (size > r->slot_space) {
        cJSON **slots = realloc(r->slots, size * sizeof *slots);
        if (!slots)
            return false;
        r->slots = slots;
        r->slot_space = size;
    }
    memset(r->slots, 0, size * sizeof *r->slots);
    for (cJSON *item = object->child; item; item = item->next) {
        size_t i = hash_text(item->string) & (size - 1);
        while (r->slots[i] && strcmp(r->slots[i]->string, item->string) != 0)
            i = (i + 1) & (size - 1);
        cJSON *first = r->slots[i];
        r->slots[i] = item;
        if (!first)
            continue;
        if (!report_duplicate(r, first, item))
            return false;
        cJSON_Delete(cJSON_DetachItemViaPointer(object, first));
    }
    return true;
}

/* === reading === */

static bool no_memory(reader *r)
{
    return scan_fail(&r->scan, r->scan.at, "out of memory");
}

/* Hangs a new value into the innermost container; takes it over. */
static bool attach(reader *r, cJSON *node, size_t at, bool quoteless)
{
    if (!node)
        return no_memory(r);
    if (r->src->count == SOURCE_MAX_VALUES) {
        cJSON_Delete(node);
        return scan_fail(&r->scan, at, "more values than a config has (50000)");
    }
    spot s = {node, (uint32_t)at, (uint32_t)(r->key ? r->key_at : at), quoteless};
    cJSON *parent = r->depth ? r->stack[r->depth - 1].node : NULL;
    if (r->key) {
        node->string = r->key; /* freed with the node, as cJSON does */
        r->key = NULL;
    }
    if (!parent)
        r->src->tree = node;
    else
        cJSON_AddItemToArray(parent, node); /* keeps node->string */
    return remember(r->src, &s) || no_memory(r);
}

static bool open_container(reader *r, cJSON *node, size_t at, bool braceless)
{
    if (r->depth == SOURCE_MAX_DEPTH) {
        cJSON_Delete(node);
        return scan_fail(&r->scan, at, "more than 200 levels of nesting");
    }
    if (!attach(r, node, at, false))
        return false;
    r->stack[r->depth++] = (frame){node, braceless};
    return true;
}

static bool read_key(reader *r)
{
    scan *s = &r->scan;
    r->key_at = s->at;
    if (!scan_key(s))
        return false;
    int c = scan_next(s);
    if (c != ':')
        return c != SCAN_FAILED && scan_fail(s, s->at, "a ':' is missing after the key");
    s->at++;
    r->key = cJSON_malloc(s->word_length + 1);
    if (!r->key)
        return no_memory(r);
    memcpy(r->key, s->word, s->word_length + 1);
    return scan_next(s) != SCAN_FAILED;
}

static bool read_value(reader *r)
{
    scan *s = &r->scan;
    size_t at = s->at;
    char c = at < s->length ? s->text[at] : '\0';
    if (c == '{' || c == '[') {
        s->at++;
        return open_container(r, c == '{' ? cJSON_CreateObject() : cJSON_CreateArray(), at, false);
    }
    double number = 0;
    bool quoteless = false;
    switch (scan_scalar(s, &number, &quoteless)) {
    case SCAN_STRING:
        if (quoteless)
            r->quoteless_at = at;
        return attach(r, cJSON_CreateString(s->word), at, quoteless);
    case SCAN_NUMBER:
        return attach(r, cJSON_CreateNumber(number), at, false);
    case SCAN_TRUE:
        return attach(r, cJSON_CreateTrue(), at, false);
    case SCAN_FALSE:
        return attach(r, cJSON_CreateFalse(), at, false);
    case SCAN_NULL:
        return attach(r, cJSON_CreateNull(), at, false);
    default:
        return false;
    }
}

/* Stands before a key, a value, or the end of the innermost container; *closed says that it was
 * the end. */
static bool at_close(reader *r, bool *closed)
{
    scan *s = &r->scan;
    frame *top = &r->stack[r->depth - 1];
    int c = scan_next(s);
    if (c == SCAN_FAILED)
        return false;
    *closed = c == (top->braceless ? 0 : cJSON_IsObject(top->node) ? '}' : ']');
    if (!*closed)
        return true;
    s->at += !top->braceless;
    if (cJSON_IsObject(top->node) && !drop_duplicates(r, top->node))
        return no_memory(r);
    r->depth--;
    return true;
}

static bool skip_comma(reader *r)
{
    int c = scan_next(&r->scan);
    if (c == ',') {
        r->scan.at++;
        c = scan_next(&r->scan);
    }
    return c != SCAN_FAILED;
}

static bool read_all(reader *r)
{
    scan *s = &r->scan;
    if (s->length >= 3 && memcmp(s->text, "\xef\xbb\xbf", 3) == 0)
        s->at = 3;
    int c = scan_next(s);
    if (c == SCAN_FAILED)
        return false;
    if (c == '[')
        return scan_fail(s, s->at, "what belongs here is an object: { ... }");
    size_t at = s->at;
    s->at += c == '{';
    if (!open_container(r, cJSON_CreateObject(), at, c != '{'))
        return false;
    while (r->depth) {
        bool closed;
        if (!at_close(r, &closed))
            return false;
        if (!closed) {
            size_t depth = r->depth;
            if (cJSON_IsObject(r->stack[depth - 1].node) && !read_key(r))
                return false;
            if (!read_value(r))
                return false;
            if (r->depth > depth)
                continue;
        }
        if (r->depth && !skip_comma(r))
            return false;
    }
    c = scan_next(s);
    if (c != 0)
        return c != SCAN_FAILED && scan_fail(s, s->at, "something follows the closing }");
    return true;
}

/* "name:line:col: error: what", and where a quote was probably forgotten. */
static zds_status explain(const reader *r, zds_error *error)
{
    const scan *s = &r->scan;
    if (strcmp(s->error, "out of memory") == 0)
        return error_set(error, ZDS_ERR_MEMORY, "%s: out of memory", r->src->name);
    source_place at = place_of(r->src, s->error_at);
    const char *swallowed = NULL;
    size_t length = 0;
    if (r->quoteless_at != SIZE_MAX) {
        swallowed = s->text + r->quoteless_at;
        length = strcspn(swallowed, "\r\n");
    }
    if (!swallowed || !memchr(swallowed, ',', length))
        if (!swallowed || (!memchr(swallowed, '}', length) && !memchr(swallowed, ']', length)))
            return error_set(error, ZDS_ERR_FORMAT, "%s:%d:%d: error: %s", r->src->name, at.line,
                             at.column, s->error);
    source_place text = place_of(r->src, r->quoteless_at);
    return error_set(error, ZDS_ERR_FORMAT,
                     "%s:%d:%d: error: %s (the value at %d:%d has no quotes and was read as a "
                     "string up to the end of its line: %.*s)",
                     r->src->name, at.line, at.column, s->error, text.line, text.column,
                     length > 60 ? 60 : (int)length, swallowed);
}

zds_status source_parse(const char *name, const char *text, size_t length, source **out,
                        zds_error *error)
{
    *out = NULL;
    if (length > SOURCE_MAX_BYTES)
        return error_set(error, ZDS_ERR_FORMAT, "%s: error: more than %d MiB", name,
                         SOURCE_MAX_BYTES >> 20);
    reader *r = calloc(1, sizeof *r);
    source *src = calloc(1, sizeof *src);
    zds_status status = ZDS_ERR_MEMORY;
    if (!r || !src || !(src->name = strdup(name)) || !(src->text = malloc(length + 1)))
        goto done;
    memcpy(src->text, text, length);
    src->text[length] = '\0';
    src->length = length;
    r->src = src;
    r->quoteless_at = SIZE_MAX;
    if (!scan_begin(&r->scan, src->text, length))
        goto done;
    bool good = scan_check_utf8(&r->scan);
    if (!index_places(src))
        goto done;
    if (good && read_all(r)) {
        *out = src;
        src = NULL;
        status = ZDS_OK;
    } else {
        status = explain(r, error);
    }
done:
    if (status == ZDS_ERR_MEMORY)
        error_set(error, status, "%s: out of memory", name);
    if (r) {
        scan_end(&r->scan);
        cJSON_free(r->key);
        free(r->slots);
    }
    free(r);
    source_destroy(src);
    return status;
}

void source_destroy(source *src)
{
    if (!src)
        return;
    for (size_t i = 0; i < src->duplicate_count; i++)
        free(src->duplicates[i].path);
    free(src->duplicates);
    cJSON_Delete(src->tree);
    free(src->spots);
    free(src->lines);
    free(src->characters);
    free(src->text);
    free(src->name);
    free(src);
}

const char *source_name(const source *src)
{
    return src->name;
}

const char *source_text(const source *src, size_t *length)
{
    if (length)
        *length = src->length;
    return src->text;
}

cJSON *source_tree(const source *src)
{
    return src->tree;
}

const source_duplicate *source_duplicates(const source *src, size_t *count)
{
    *count = src->duplicate_count;
    return src->duplicates;
}
