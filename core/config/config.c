/* Loading a config, and reading its effective values. */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/arguments.h"
#include "config/hf.h"
#include "config/internal.h"
#include "config/plugins.h"
#include "host/error.h"
#include "host/launch.h"

/* Texts that zds_config_place handed out; the only part of a config that changes after loading. */
struct mutable_places {
    pthread_mutex_t lock;
    struct place_text {
        struct place_text *next;
        char text[];
    } * first;
};

/* === loading === */

zds_config_context config_context(const zds_config_context *given)
{
    zds_config_context own = {0};
    if (given)
        memcpy(&own, given, given->struct_size < sizeof own ? given->struct_size : sizeof own);
    return own;
}

int32_t config_world_size(const zds_config_context *context)
{
    launch place;
    if (context->world_size > 0)
        return context->world_size;
    /* What a launcher says badly, the engine reports. */
    return launch_read(&place, NULL) == ZDS_OK ? place.world_size : 1;
}

static bool allocate(zds_config *c)
{
    c->values = calloc(field_count(), sizeof *c->values);
    c->places = calloc(1, sizeof *c->places);
    if (!c->values || !c->places)
        return false;
    pthread_mutex_init(&c->places->lock, NULL);
    cJSON *copy = cJSON_Duplicate(c->raw, true);
    c->hf = hf_create(copy);
    if (!c->hf)
        cJSON_Delete(copy);
    else
        c->resolved = copy;
    return c->hf && (!c->src || source_adopt(c->src, copy));
}

/* === sources === */

/* A whole file, or NULL with errno; EFBIG if it is longer than any config. */
static char *read_file(const char *path, size_t *length)
{
    FILE *in = fopen(path, "rbe");
    struct stat info;
    char *text = NULL;
    if (!in)
        return NULL;
    int why = 0;
    if (fstat(fileno(in), &info) != 0) {
        why = errno;
    } else if (S_ISDIR(info.st_mode)) {
        why = EISDIR;
    } else if ((text = malloc(SOURCE_MAX_BYTES + 2)) == NULL) {
        why = ENOMEM;
    } else {
        *length = fread(text, 1, SOURCE_MAX_BYTES + 1, in);
        why = ferror(in) ? EIO : 0;
    }
    fclose(in);
    if (why) {
        free(text);
        text = NULL;
        errno = why;
    }
    return text;
}

/* Decodes URL-safe base64 (the plain alphabet and missing padding are taken too); NULL if it is
 * none. */
static char *decode_base64(const char *text, size_t *length)
{
    size_t n = strlen(text), bits = 0, used = 0;
    char *out = malloc(n / 4 * 3 + 4);
    uint32_t buffer = 0;
    if (!out)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        int six = c >= 'A' && c <= 'Z'   ? c - 'A'
                  : c >= 'a' && c <= 'z' ? c - 'a' + 26
                  : c >= '0' && c <= '9' ? c - '0' + 52
                  : c == '-' || c == '+' ? 62
                  : c == '_' || c == '/' ? 63
                                         : -1;
        if (six < 0) {
            if ((c == '=' && i + 2 >= n) || c == '\n')
                continue;
            free(out);
            return NULL;
        }
        buffer = buffer << 6 | (uint32_t)six;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            out[used++] = (char)(buffer >> bits);
        }
    }
    *length = used;
    return out;
}

/* Reads a path, text or base64 of text; `inline_name` is what messages call text. */
static zds_status open_source(const char *from, const char *inline_name, source **src,
                              zds_error *error)
{
    size_t length = 0;
    zds_status status;
    const char *start = from + strspn(from, " \t\r\n");
    if (!*start)
        return error_set(error, ZDS_ERR_NOT_FOUND,
                         "nothing is given where a path, JSON text or base64 of JSON text belongs");
    if (*start == '{')
        return source_parse(inline_name, from, strlen(from), src, error);
    char *text = strlen(from) < 4096 ? read_file(from, &length) : NULL;
    int why = errno;
    if (text) {
        status = source_parse(from, text, length, src, error);
    } else if ((text = decode_base64(from, &length)) != NULL && length > 0 &&
               memchr(text, '{', length)) {
        status = source_parse("<base64>", text, length, src, error);
    } else if (strlen(from) >= 4096 || why == ENAMETOOLONG) {
        status = error_set(error, ZDS_ERR_NOT_FOUND,
                           "%.60s...: neither a file, nor JSON, nor base64 of JSON", from);
    } else {
        status = error_set(error, why == ENOENT ? ZDS_ERR_NOT_FOUND : ZDS_ERR_IO,
                           "%s: %s (a config is a file, JSON text or base64 of JSON text)", from,
                           strerror(why));
    }
    free(text);
    return status;
}

/* === problems and arguments === */

static void report_duplicates(zds_config *c, const source *src)
{
    size_t count = 0;
    const source_duplicate *d = src ? source_duplicates(src, &count) : NULL;
    for (size_t i = 0; i < count; i++) {
        char message[160];
        snprintf(message, sizeof message, "is there twice, first at %d:%d; delete one",
                 d[i].first.line, d[i].first.column);
        problem_add_at(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_SYNTAX, d[i].path, source_name(src),
                       d[i].second, message);
    }
}

static void report_argument(void *user, const cJSON *node, bool at_name, const char *message)
{
    zds_config *c = user;
    const source *src = c->arguments_src;
    source_place at = at_name ? source_key_place(src, node) : source_value_place(src, node);
    problem_add_at(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_SYNTAX, node->string,
                   src ? source_name(src) : "<arguments>", at, message);
}

/* From here on `context` has the arguments that are right. */
static zds_status take_arguments(zds_config *c, zds_config_context *context, zds_error *error)
{
    if (context->arguments_source && context->arguments)
        return error_set(error, ZDS_ERR_INVALID,
                         "the training arguments are given twice, as a tree and as a source");
    if (context->arguments_source) {
        zds_status status =
            open_source(context->arguments_source, "<arguments>", &c->arguments_src, error);
        if (status)
            return status;
        const char *text = source_text(c->arguments_src, NULL);
        char first = text[strspn(text, " \t\r\n")];
        if (!first || !strchr("{/#\xef", first)) /* or a comment, or a mark of UTF-8 */
            return error_set(error, ZDS_ERR_FORMAT,
                             "%s:1:1: error: training arguments are a JSON object: { ... }",
                             source_name(c->arguments_src));
        context->arguments = source_tree(c->arguments_src);
        report_duplicates(c, c->arguments_src);
    }
    if (!context->arguments)
        return ZDS_OK;
    c->arguments = arguments_read(context->arguments, report_argument, c);
    context->arguments = c->arguments;
    return c->arguments ? ZDS_OK : error_set(error, ZDS_ERR_MEMORY, "out of memory");
}

/* From raw to resolved: "auto" filled, and what contradicts the arguments told. */
static void resolve(zds_config *c, const zds_config_context *context)
{
    const cJSON *row;
    zds_hf_mismatch m;
    if (!c->arguments)
        return;
    hf_process(c->hf, context);
    if (context->accelerate)
        hf_accelerate(c->hf, context);
    hf_finalize(c->hf, context);
    c->failed |= c->hf->failed;
    cJSON_ArrayForEach(row, c->hf->errors)
    {
        problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ARGUMENTS,
                    cJSON_GetObjectItemCaseSensitive(row, "path")->valuestring, "%s",
                    cJSON_GetObjectItemCaseSensitive(row, "message")->valuestring);
    }
    for (size_t i = 0; zds_hf_config_mismatch(c->hf, i, &m); i++) {
        char has[128], wants[128];
        tree_show(m.ds_value, has, sizeof has);
        tree_show(m.hf_value, wants, sizeof wants);
        problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ARGUMENTS, m.ds_key,
                    "%s, but the training arguments say %s=%s; write \"auto\", or change one of "
                    "them",
                    has, m.hf_key, wants);
    }
}

/* `c` has its raw tree; takes it over. */
static zds_status finish(zds_config *c, const zds_config_context *given, zds_config **out,
                         zds_error *error)
{
    zds_config_context own = config_context(given), *context = &own;
    zds_status status = allocate(c) ? take_arguments(c, context, error)
                                    : error_set(error, ZDS_ERR_MEMORY, "out of memory");
    if (status) {
        zds_config_destroy(c);
        return status;
    }
    c->world_size = config_world_size(context);
    field_index_fill(&c->index);
    report_duplicates(c, c->src);
    resolve(c, context);
    effective_fill(c);
    effective_rules(c);
    effective_choice(c, context);
    effective_wisdom(c, context);
    if (context->check_plugins)
        config_check_plugins(c);
    else
        strays_report(c, NULL);
    problems_sort(c);
    if (c->failed) {
        zds_config_destroy(c);
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    }
    *out = c;
    if (!config_has_errors(c, -1))
        return ZDS_OK;
    zds_hf_mismatch first;
    bool only_mismatch =
        !config_has_errors(c, ZDS_CHECK_SYNTAX) && !config_has_errors(c, ZDS_CHECK_DEEPSPEED) &&
        !config_has_errors(c, ZDS_CHECK_ZDS) && zds_hf_config_mismatch(c->hf, 0, &first);
    char *text = zds_config_problems_text(c);
    status = error_set(error, only_mismatch ? ZDS_ERR_MISMATCH : ZDS_ERR_CONFIG, "%s",
                       text ? text : "the config has problems");
    free(text);
    return status;
}

zds_status zds_config_load(const char *from, const zds_config_context *context, zds_config **config,
                           zds_error *error)
{
    source *src;
    if (!from || !config)
        return error_set(error, ZDS_ERR_INVALID, "zds_config_load: no source or no place for it");
    *config = NULL;
    zds_status status = open_source(from, "<string>", &src, error);
    if (status)
        return status;
    zds_config *c = calloc(1, sizeof *c);
    if (c)
        c->name = strdup(source_name(src));
    if (!c || !c->name) {
        source_destroy(src);
        free(c);
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    }
    c->src = src;
    c->raw = source_tree(src);
    return finish(c, context, config, error);
}

/* Levels of nesting, without recursion; at most `limit` + 1. */
static size_t depth_of(const cJSON *tree, size_t limit)
{
    const cJSON *stack[SOURCE_MAX_DEPTH + 2];
    size_t depth = 0, most = 0;
    stack[0] = tree->child;
    while (1) {
        const cJSON *node = stack[depth];
        if (!node) {
            if (depth == 0)
                return most;
            depth--;
            continue;
        }
        stack[depth] = node->next;
        if (node->child) {
            if (depth == limit)
                return limit + 1;
            stack[++depth] = node->child;
            most = depth > most ? depth : most;
        }
    }
}

zds_status zds_config_from_json(const struct cJSON *tree, const zds_config_context *context,
                                zds_config **config, zds_error *error)
{
    if (!tree || !config)
        return error_set(error, ZDS_ERR_INVALID,
                         "zds_config_from_json: no tree or no place for it");
    *config = NULL;
    if (!cJSON_IsObject(tree))
        return error_set(error, ZDS_ERR_FORMAT, "a ds_config is an object");
    if (depth_of(tree, SOURCE_MAX_DEPTH) > SOURCE_MAX_DEPTH)
        return error_set(error, ZDS_ERR_FORMAT, "more than %d levels of nesting", SOURCE_MAX_DEPTH);
    zds_config *c = calloc(1, sizeof *c);
    if (!c || !(c->name = strdup("<json>")) || !(c->raw = cJSON_Duplicate(tree, true))) {
        zds_config_destroy(c);
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    }
    return finish(c, context, config, error);
}

void zds_config_destroy(zds_config *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->problem_count; i++) {
        free((char *)c->problems[i].shown.path);
        free((char *)c->problems[i].shown.message);
    }
    free(c->problems);
    for (size_t i = 0; i < c->stray_count; i++)
        free(c->strays[i].path);
    if (c->places) {
        for (struct place_text *p = c->places->first, *next; p; p = next) {
            next = p->next;
            free(p);
        }
        pthread_mutex_destroy(&c->places->lock);
        free(c->places);
    }
    zds_hf_config_destroy(c->hf);
    if (!c->src)
        cJSON_Delete(c->raw);
    source_destroy(c->src);
    source_destroy(c->arguments_src);
    cJSON_Delete(c->arguments);
    free(c->values);
    free(c->name);
    free(c);
}

/* === reading === */

static const value *known(const zds_config *config, const char *path)
{
    int row = field_find_path(&config->index, path);
    assert(row >= 0 && "no such key in ds_config");
    return row < 0 ? NULL : &config->values[row];
}

bool zds_config_bool(const zds_config *config, const char *path)
{
    const value *v = known(config, path);
    return v && !v->null && v->boolean;
}

int64_t zds_config_int(const zds_config *config, const char *path)
{
    const value *v = known(config, path);
    return !v ? 0 : v->null ? INT64_MIN : v->integer;
}

double zds_config_float(const zds_config *config, const char *path)
{
    const value *v = known(config, path);
    return !v || v->null ? (double)NAN : v->number;
}

const char *zds_config_string(const zds_config *config, const char *path)
{
    const value *v = known(config, path);
    return !v || v->null ? NULL : v->string;
}

const zds_hf_config *zds_config_hf(const zds_config *config)
{
    return config->hf;
}

const struct cJSON *zds_config_arguments(const zds_config *config)
{
    return config->arguments;
}

const struct cJSON *zds_config_node(const zds_config *config, const char *path)
{
    return tree_find(config->resolved, path);
}

const char *zds_config_text(const zds_config *config, const char *file, size_t *length)
{
    const source *sources[] = {config->src, config->arguments_src};
    for (size_t i = 0; i < 2; i++)
        if (sources[i] && strcmp(source_name(sources[i]), file) == 0)
            return source_text(sources[i], length);
    return NULL;
}

bool zds_config_is_set(const zds_config *config, const char *path)
{
    const cJSON *node = tree_find(config->raw, path);
    int row = node ? -1 : field_find_path(&config->index, path);
    if (row >= 0)
        node = config->values[row].node; /* another spelling */
    return node && !cJSON_IsNull(node);
}

const char *zds_config_place(const zds_config *config, const char *path)
{
    if (!config->src)
        return "";
    const cJSON *node = tree_nearest(config->raw, path);
    int row = tree_find(config->raw, path) ? -1 : field_find_path(&config->index, path);
    if (row >= 0 && config->values[row].node)
        node = config->values[row].node; /* another spelling */
    source_place at = source_value_place(config->src, node);
    size_t size = strlen(config->name) + 32;
    struct place_text *p = malloc(sizeof *p + size);
    if (!p)
        return "";
    snprintf(p->text, size, "%s:%d:%d", config->name, at.line, at.column);
    pthread_mutex_lock(&config->places->lock);
    p->next = config->places->first;
    config->places->first = p;
    pthread_mutex_unlock(&config->places->lock);
    return p->text;
}
