/* HfDeepSpeedConfig (accelerate 1.15, utils/deepspeed.py) and the filling part of
 * HfTrainerDeepSpeedConfig (transformers 5.23, integrations/deepspeed.py). */
#include "config/hf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/arguments.h"
#include "config/internal.h"
#include "host/error.h"
#include "host/sized.h"

/* === creating === */

zds_hf_config *hf_create(cJSON *tree)
{
    zds_hf_config *hf = tree ? calloc(1, sizeof *hf) : NULL;
    if (!hf)
        return NULL;
    hf->tree = tree;
    hf_read_stage(hf);
    return hf;
}

zds_status zds_hf_config_create(const char *from, zds_hf_config **hf, zds_error *error)
{
    source *src;
    if (!from || !hf)
        return error_set(error, ZDS_ERR_INVALID,
                         "zds_hf_config_create: no source or no place for the result");
    *hf = NULL;
    zds_status status = source_load(from, "<string>", &src, error);
    if (status)
        return status;
    cJSON *tree = cJSON_Duplicate(source_tree(src), true);
    source_destroy(src);
    *hf = hf_create(tree);
    if (*hf)
        return ZDS_OK;
    cJSON_Delete(tree);
    return error_set(error, ZDS_ERR_MEMORY, "out of memory");
}

void hf_forget(zds_hf_config *hf, size_t count)
{
    while (hf->mismatch_count > count) {
        hf_mismatch *m = &hf->mismatches[--hf->mismatch_count];
        free(m->ds_key);
        free(m->hf_key);
        free(m->ds_value);
        free(m->hf_value);
        free(m->says);
    }
}

void zds_hf_config_destroy(zds_hf_config *hf)
{
    if (!hf)
        return;
    cJSON_Delete(hf->tree);
    hf_forget(hf, 0);
    free(hf->mismatches);
    problems_clear(&hf->errors);
    free(hf);
}

/* === looking === */

char *zds_hf_config_json(const zds_hf_config *hf)
{
    return tree_text(hf->tree);
}

const cJSON *hf_find(const zds_hf_config *hf, const char *path, const char **key)
{
    const cJSON *node = hf->tree;
    for (const char *dot; (dot = strchr(path, '.')) != NULL; path = dot + 1) {
        size_t length = (size_t)(dot - path);
        node = node->child;
        while (node && (strncmp(node->string, path, length) != 0 || node->string[length]))
            node = node->next;
        if (!cJSON_IsObject(node))
            return NULL;
    }
    if (key)
        *key = path;
    return node;
}

const cJSON *hf_value(const zds_hf_config *hf, const char *path)
{
    const char *key = NULL;
    const cJSON *parent = hf_find(hf, path, &key);
    return parent ? cJSON_GetObjectItemCaseSensitive(parent, key) : NULL;
}

char *zds_hf_config_find_node(const zds_hf_config *hf, const char *path, const char **key)
{
    return tree_text(hf_find(hf, path, key));
}

char *zds_hf_config_value(const zds_hf_config *hf, const char *path)
{
    return tree_text(hf_value(hf, path));
}

/* Python's bool() of a value that is not None. */
static bool truth(const cJSON *node)
{
    if (cJSON_IsNumber(node))
        return node->valuedouble != 0;
    if (cJSON_IsString(node))
        return node->valuestring[0] != '\0';
    if (cJSON_IsArray(node) || cJSON_IsObject(node))
        return node->child != NULL;
    return cJSON_IsTrue(node);
}

bool zds_hf_config_is_true(const zds_hf_config *hf, const char *path)
{
    const cJSON *node = hf_value(hf, path);
    return node && !cJSON_IsNull(node) && truth(node);
}

bool zds_hf_config_is_false(const zds_hf_config *hf, const char *path)
{
    const cJSON *node = hf_value(hf, path);
    return node && !cJSON_IsNull(node) && !truth(node);
}

bool zds_hf_config_is_auto(const zds_hf_config *hf, const char *path)
{
    return tree_is_auto(hf_value(hf, path));
}

zds_status zds_hf_config_delete(zds_hf_config *hf, const char *path, bool must_exist,
                                zds_error *error)
{
    const char *key = NULL;
    cJSON *parent = (cJSON *)hf_find(hf, path, &key);
    cJSON *item = parent ? cJSON_GetObjectItemCaseSensitive(parent, key) : NULL;
    if (item) {
        cJSON_Delete(cJSON_DetachItemViaPointer(parent, item));
        return ZDS_OK;
    }
    return must_exist ? error_set(error, ZDS_ERR_NOT_FOUND, "%s is not in the config", path)
                      : ZDS_OK;
}

void hf_read_stage(zds_hf_config *hf)
{
    static const char *const devices[] = {"zero_optimization.offload_optimizer.device",
                                          "zero_optimization.offload_param.device"};
    const cJSON *stage = hf_value(hf, "zero_optimization.stage");
    hf->stage = !stage                  ? -1
                : cJSON_IsNumber(stage) ? stage->valuedouble
                : cJSON_IsBool(stage)   ? cJSON_IsTrue(stage)
                                        : (double)NAN;
    hf->offload = false;
    for (size_t i = 0; i < 2 && (hf->stage == 2 || hf->stage == 3); i++) {
        const cJSON *device = hf_value(hf, devices[i]);
        if (cJSON_IsString(device) && field_has_choice("cpu|nvme", device->valuestring, false))
            hf->offload = true;
    }
}

bool zds_hf_config_is_zero1(const zds_hf_config *hf)
{
    return hf->stage == 1;
}

bool zds_hf_config_is_zero2(const zds_hf_config *hf)
{
    return hf->stage == 2;
}

bool zds_hf_config_is_zero3(const zds_hf_config *hf)
{
    return hf->stage == 3;
}

bool zds_hf_config_is_offload(const zds_hf_config *hf)
{
    return hf->offload;
}

const char *zds_hf_config_dtype(const zds_hf_config *hf)
{
    return hf->dtype;
}

/* === filling === */

/* Python's ==: booleans are numbers. */
static bool equal(const cJSON *a, const cJSON *b)
{
    bool a_number = cJSON_IsNumber(a) || cJSON_IsBool(a),
         b_number = cJSON_IsNumber(b) || cJSON_IsBool(b);
    if (a_number && b_number)
        return (cJSON_IsNumber(a) ? a->valuedouble : cJSON_IsTrue(a)) ==
               (cJSON_IsNumber(b) ? b->valuedouble : cJSON_IsTrue(b));
    if (cJSON_IsArray(a) && cJSON_IsArray(b)) {
        const cJSON *x = a->child, *y = b->child;
        for (; x && y; x = x->next, y = y->next)
            if (!equal(x, y))
                return false;
        return !x && !y;
    }
    return cJSON_IsString(a) && cJSON_IsString(b) && strcmp(a->valuestring, b->valuestring) == 0;
}

static void note_mismatch(zds_hf_config *hf, const char *path, const cJSON *has, const char *name,
                          const cJSON *wants)
{
    hf_mismatch *grown = realloc(hf->mismatches, (hf->mismatch_count + 1) * sizeof *hf->mismatches);
    hf->failed |= !grown;
    if (!grown)
        return;
    char left[128], right[128];
    tree_show(has, left, sizeof left);
    tree_show(wants, right, sizeof right);
    name = name ? name : "";
    hf_mismatch m = {strdup(path), strdup(name), tree_text(has), tree_text(wants),
                     text_format("%s, but the training arguments say %s=%s", left, name, right)};
    hf->mismatches = grown;
    hf->mismatches[hf->mismatch_count++] = m;
    if (m.ds_key && m.hf_key && m.ds_value && m.hf_value && m.says)
        return;
    hf_forget(hf, hf->mismatch_count - 1);
    hf->failed = true;
}

void hf_error(zds_hf_config *hf, const char *path, const char *message)
{
    problems_add(&hf->errors, &(zds_problem){.path = path, .message = message, .file = ""}, true);
    hf->failed |= hf->errors.failed;
}

void hf_fill(zds_hf_config *hf, const char *path, const cJSON *filling, const char *hf_key,
             bool must_match)
{
    const char *key = NULL;
    cJSON *parent = (cJSON *)hf_find(hf, path, &key);
    const cJSON *item = parent ? cJSON_GetObjectItemCaseSensitive(parent, key) : NULL;
    if (tree_is_auto(item)) {
        cJSON *copy = cJSON_Duplicate(filling, true);
        if (copy && cJSON_ReplaceItemInObjectCaseSensitive(parent, key, copy))
            return;
        cJSON_Delete(copy);
        hf->failed = true;
    } else if (must_match && item && !cJSON_IsNull(item) && !equal(item, filling)) {
        note_mismatch(hf, path, item, hf_key, filling);
    }
}

zds_status zds_hf_config_fill_match(zds_hf_config *hf, const char *path, const char *json,
                                    const char *hf_key, bool must_match)
{
    cJSON *filling = cJSON_ParseWithOpts(json, NULL, true);
    if (!filling)
        return ZDS_ERR_FORMAT;
    hf_fill(hf, path, filling, hf_key, must_match);
    cJSON_Delete(filling);
    return hf->failed ? ZDS_ERR_MEMORY : ZDS_OK;
}

zds_status zds_hf_config_fill_only(zds_hf_config *hf, const char *path, const char *json)
{
    return zds_hf_config_fill_match(hf, path, json, NULL, false);
}

bool zds_hf_config_mismatch_sized(const zds_hf_config *hf, size_t index, zds_hf_mismatch *mismatch,
                                  size_t size)
{
    if (index >= hf->mismatch_count)
        return false;
    const hf_mismatch *m = &hf->mismatches[index];
    const zds_hf_mismatch own = {
        .ds_key = m->ds_key, .hf_key = m->hf_key, .ds_value = m->ds_value, .hf_value = m->hf_value};
    sized_fill(mismatch, size, &own, sizeof own);
    return true;
}

/* === as statuses === */

static void note_argument(void *user, const cJSON *node, bool at_name, const char *message)
{
    (void)at_name;
    hf_error(user, node->string, message);
}

static zds_status outcome(zds_hf_config *hf, zds_error *error)
{
    if (hf->failed)
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < hf->errors.count; i++)
        fprintf(out, "%s: %s\n", hf->errors.list[i].shown.path, hf->errors.list[i].shown.message);
    for (size_t i = 0; i < hf->mismatch_count; i++)
        fprintf(out, "%s: %s\n", hf->mismatches[i].ds_key, hf->mismatches[i].says);
    zds_status status = hf->mismatch_count ? ZDS_ERR_MISMATCH
                        : hf->errors.count ? ZDS_ERR_CONFIG
                                           : ZDS_OK;
    if (fclose(out) == 0 && status != ZDS_OK)
        error_set(error, status, "%.*s", size ? (int)size - 1 : 0, text);
    free(text);
    return status;
}

/* The arguments of the context that are right; those that are wrong are errors, the first time. The
 * caller deletes them. */
static zds_status read_arguments(zds_hf_config *hf, const zds_config_context *context,
                                 const char *what, cJSON **arguments, zds_error *error)
{
    source *src;
    if (!context->arguments_source)
        return error_set(error, ZDS_ERR_INVALID, "%s: no arguments", what);
    zds_status status = source_load_arguments(context->arguments_source, &src, error);
    if (status)
        return status;
    *arguments = arguments_read(source_tree(src), hf->dtype ? NULL : note_argument, hf);
    source_destroy(src);
    return *arguments ? ZDS_OK : error_set(error, ZDS_ERR_MEMORY, "out of memory");
}

zds_status zds_hf_config_process(zds_hf_config *hf, const zds_config_context *given,
                                 zds_error *error)
{
    zds_config_context context;
    cJSON *arguments;
    zds_status status = config_context(given, &context, error);
    if (!status)
        status = read_arguments(hf, &context, "zds_hf_config_process", &arguments, error);
    if (status)
        return status;
    hf_process(hf, &context, arguments);
    cJSON_Delete(arguments);
    /* Mismatches are told by finalize, as transformers does. */
    return hf->errors.count || hf->failed ? outcome(hf, error) : ZDS_OK;
}

zds_status zds_hf_config_finalize(zds_hf_config *hf, const zds_config_context *given,
                                  zds_error *error)
{
    zds_config_context context;
    cJSON *arguments;
    zds_status status = config_context(given, &context, error);
    if (!status)
        status = read_arguments(hf, &context, "zds_hf_config_finalize", &arguments, error);
    if (status)
        return status;
    hf_finalize(hf, &context, arguments);
    cJSON_Delete(arguments);
    return outcome(hf, error);
}
