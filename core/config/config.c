/* Loading a config, and reading its effective values. */
#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/arguments.h"
#include "config/hf.h"
#include "config/internal.h"
#include "config/plugins.h"
#include "host/error.h"
#include "host/launch.h"
#include "host/sized.h"

/* Texts that zds_config_place handed out; the only part of a config that changes after loading. */
struct mutable_places {
    pthread_mutex_t lock;
    struct place_text {
        struct place_text *next;
        source_place at;
        char text[];
    } * first;
};

/* === loading === */

zds_status config_context(const zds_config_context *given, zds_config_context *out,
                          zds_error *error)
{
    *out = (zds_config_context){0};
    if (!given)
        return ZDS_OK;
    const size_t least = ZDS_SIZE_THROUGH(zds_config_context, arguments_source);
    if (!sized_reaches(given, least))
        return error_set(error, ZDS_ERR_INVALID, SIZED_TOO_SHORT, "zds_config_context",
                         given->struct_size, least);
    sized_read(out, sizeof *out, given);
    return ZDS_OK;
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
    c->name = source_name(c->src);
    c->raw = source_tree(c->src);
    c->values = calloc(field_count(), sizeof *c->values);
    c->places = calloc(1, sizeof *c->places);
    if (!c->values || !c->places)
        return false;
    pthread_mutex_init(&c->places->lock, NULL);
    cJSON *copy = cJSON_Duplicate(c->raw, true);
    c->hf = hf_create(copy);
    if (!c->hf)
        cJSON_Delete(copy);
    c->resolved = c->hf ? copy : NULL;
    return c->hf && source_adopt(c->src, copy);
}

/* === problems and arguments === */

static void report_duplicates(zds_config *c, const source *src)
{
    size_t count = 0;
    const source_duplicate *d = source_duplicates(src, &count);
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
    problem_add_at(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_SYNTAX, node->string, source_name(src), at,
                   message);
}

static zds_status take_arguments(zds_config *c, const char *from, zds_error *error)
{
    if (!from)
        return ZDS_OK;
    zds_status status = source_load_arguments(from, &c->arguments_src, error);
    if (status)
        return status;
    report_duplicates(c, c->arguments_src);
    c->arguments = arguments_read(source_tree(c->arguments_src), report_argument, c);
    return c->arguments ? ZDS_OK : error_set(error, ZDS_ERR_MEMORY, "out of memory");
}

/* From raw to resolved: "auto" filled, and what contradicts the arguments told. */
static void resolve(zds_config *c, const zds_config_context *context)
{
    if (!c->arguments)
        return;
    hf_process(c->hf, context, c->arguments);
    if (context->accelerate)
        hf_accelerate(c->hf, context, c->arguments);
    hf_finalize(c->hf, context, c->arguments);
    c->found.failed |= c->hf->failed;
    for (size_t i = 0; i < c->hf->errors.count; i++)
        problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ARGUMENTS, c->hf->errors.list[i].shown.path,
                    "%s", c->hf->errors.list[i].shown.message);
    for (size_t i = 0; i < c->hf->mismatch_count; i++)
        problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ARGUMENTS, c->hf->mismatches[i].ds_key,
                    "%s; write \"auto\", or change one of them", c->hf->mismatches[i].says);
}

static zds_status outcome(const zds_config *c, zds_error *error)
{
    if (!config_has_errors(c, -1))
        return ZDS_OK;
    bool only_mismatch = !config_has_errors(c, ZDS_CHECK_SYNTAX) &&
                         !config_has_errors(c, ZDS_CHECK_DEEPSPEED) &&
                         !config_has_errors(c, ZDS_CHECK_ZDS) && c->hf->mismatch_count;
    char *text = zds_config_problems_text(c);
    zds_status status = error_set(error, only_mismatch ? ZDS_ERR_MISMATCH : ZDS_ERR_CONFIG, "%s",
                                  text ? text : "the config has problems");
    free(text);
    return status;
}

zds_status config_from_source(source *src, const zds_config_context *given, zds_config **out,
                              zds_error *error)
{
    zds_config_context context;
    zds_status status = config_context(given, &context, error);
    zds_config *c = status ? NULL : calloc(1, sizeof *c);
    if (!c) {
        source_destroy(src);
        return status ? status : error_set(error, ZDS_ERR_MEMORY, "out of memory");
    }
    c->src = src;
    status = allocate(c) ? take_arguments(c, context.arguments_source, error)
                         : error_set(error, ZDS_ERR_MEMORY, "out of memory");
    if (status) {
        zds_config_destroy(c);
        return status;
    }
    c->world_size = config_world_size(&context);
    field_index_fill(&c->index);
    report_duplicates(c, c->src);
    resolve(c, &context);
    effective_fill(c);
    effective_rules(c);
    effective_choice(c);
    effective_wisdom(c, &context);
    if (context.check_plugins)
        config_check_plugins(c, context.trust_plugins);
    else
        strays_report(c, NULL);
    problems_sort(&c->found);
    if (c->found.failed) {
        zds_config_destroy(c);
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    }
    *out = c;
    return outcome(c, error);
}

zds_status zds_config_load(const char *from, const zds_config_context *context, zds_config **config,
                           zds_error *error)
{
    source *src;
    if (!from || !config)
        return error_set(error, ZDS_ERR_INVALID, "zds_config_load: no source or no place for it");
    *config = NULL;
    zds_status status = source_load(from, "<string>", &src, error);
    return status ? status : config_from_source(src, context, config, error);
}

void zds_config_destroy(zds_config *c)
{
    if (!c)
        return;
    problems_clear(&c->found);
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
    source_destroy(c->src);
    source_destroy(c->arguments_src);
    cJSON_Delete(c->arguments);
    free(c->values);
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

char *zds_config_arguments(const zds_config *config)
{
    return tree_text(config->arguments);
}

const cJSON *config_node(const zds_config *c, const char *path)
{
    return tree_find(c->resolved, path);
}

const cJSON *config_tier(const zds_config *c, const char *name)
{
    const cJSON *tiers = tree_find(c->resolved, "zds.tiers");
    return strcmp(name, "none") == 0 ? NULL : cJSON_GetObjectItemCaseSensitive(tiers, name);
}

char *zds_config_node(const zds_config *config, const char *path)
{
    return tree_text(config_node(config, path));
}

int32_t config_ranks(const zds_config *c)
{
    return c->world_size;
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

/* There are as many places as the file has values, however often they are asked for. */
static const char *place_text(const zds_config *c, source_place at)
{
    pthread_mutex_lock(&c->places->lock);
    struct place_text *p = c->places->first;
    while (p && (p->at.line != at.line || p->at.column != at.column))
        p = p->next;
    size_t size = strlen(c->name) + 32;
    if (!p && (p = malloc(sizeof *p + size)) != NULL) {
        p->at = at;
        snprintf(p->text, size, "%s:%d:%d", c->name, at.line, at.column);
        p->next = c->places->first;
        c->places->first = p;
    }
    pthread_mutex_unlock(&c->places->lock);
    return p ? p->text : "";
}

const char *zds_config_place(const zds_config *config, const char *path)
{
    const cJSON *node = tree_nearest(config->raw, path);
    int row = tree_find(config->raw, path) ? -1 : field_find_path(&config->index, path);
    if (row >= 0 && config->values[row].node)
        node = config->values[row].node; /* another spelling */
    return place_text(config, source_value_place(config->src, node));
}
