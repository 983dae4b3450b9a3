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

/* === creating === */

zds_hf_config *hf_create(cJSON *tree)
{
    zds_hf_config *hf = calloc(1, sizeof *hf);
    if (!hf)
        return NULL;
    hf->tree = tree;
    hf->mismatches = cJSON_CreateArray();
    hf->errors = cJSON_CreateArray();
    if (!tree || !hf->mismatches || !hf->errors) {
        hf->tree = NULL; /* stays the caller's */
        zds_hf_config_destroy(hf);
        return NULL;
    }
    hf_read_stage(hf);
    return hf;
}

static zds_status from_config(zds_status status, zds_config *c, zds_hf_config **out,
                              zds_error *error)
{
    if (!c)
        return status;
    zds_error_clear(error); /* problems are not this object's subject */
    cJSON *tree = cJSON_Duplicate(c->raw, true);
    *out = tree ? hf_create(tree) : NULL;
    zds_config_destroy(c);
    if (*out)
        return ZDS_OK;
    cJSON_Delete(tree);
    return error_set(error, ZDS_ERR_MEMORY, "out of memory");
}

zds_status zds_hf_config_create(const char *from, zds_hf_config **hf, zds_error *error)
{
    zds_config *c = NULL;
    if (!hf)
        return error_set(error, ZDS_ERR_INVALID, "zds_hf_config_create: no place for the result");
    *hf = NULL;
    zds_status status = zds_config_load(from, NULL, &c, error);
    return from_config(status, c, hf, error);
}

zds_status zds_hf_config_from_json(const struct cJSON *tree, zds_hf_config **hf, zds_error *error)
{
    zds_config *c = NULL;
    if (!hf)
        return error_set(error, ZDS_ERR_INVALID,
                         "zds_hf_config_from_json: no place for the result");
    *hf = NULL;
    zds_status status = zds_config_from_json(tree, NULL, &c, error);
    return from_config(status, c, hf, error);
}

void zds_hf_config_destroy(zds_hf_config *hf)
{
    if (!hf)
        return;
    cJSON_Delete(hf->tree);
    cJSON_Delete(hf->mismatches);
    cJSON_Delete(hf->errors);
    free(hf);
}

/* === looking === */

const struct cJSON *zds_hf_config_json(const zds_hf_config *hf)
{
    return hf->tree;
}

const struct cJSON *zds_hf_config_find_node(const zds_hf_config *hf, const char *path,
                                            const char **key)
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

const struct cJSON *zds_hf_config_value(const zds_hf_config *hf, const char *path,
                                        const struct cJSON *fallback)
{
    const char *key;
    const cJSON *parent = zds_hf_config_find_node(hf, path, &key);
    const cJSON *item = parent ? cJSON_GetObjectItemCaseSensitive(parent, key) : NULL;
    return item ? item : fallback;
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
    const cJSON *node = zds_hf_config_value(hf, path, NULL);
    return node && !cJSON_IsNull(node) && truth(node);
}

bool zds_hf_config_is_false(const zds_hf_config *hf, const char *path)
{
    const cJSON *node = zds_hf_config_value(hf, path, NULL);
    return node && !cJSON_IsNull(node) && !truth(node);
}

bool zds_hf_config_is_auto(const zds_hf_config *hf, const char *path)
{
    return tree_is_auto(zds_hf_config_value(hf, path, NULL));
}

zds_status zds_hf_config_delete(zds_hf_config *hf, const char *path, bool must_exist,
                                zds_error *error)
{
    const char *key;
    cJSON *parent = (cJSON *)zds_hf_config_find_node(hf, path, &key);
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
    const cJSON *stage = zds_hf_config_value(hf, "zero_optimization.stage", NULL);
    hf->stage = !stage                  ? -1
                : cJSON_IsNumber(stage) ? stage->valuedouble
                : cJSON_IsBool(stage)   ? cJSON_IsTrue(stage)
                                        : (double)NAN;
    hf->offload = false;
    for (size_t i = 0; i < 2 && (hf->stage == 2 || hf->stage == 3); i++) {
        const cJSON *device = zds_hf_config_value(hf, devices[i], NULL);
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
    cJSON *row = cJSON_CreateObject(), *left = cJSON_Duplicate(has, true),
          *right = cJSON_Duplicate(wants, true);
    bool good = row && left && right && cJSON_AddStringToObject(row, "ds_key", path) &&
                cJSON_AddStringToObject(row, "hf_key", name ? name : "");
    if (good && (good = cJSON_AddItemToObject(row, "ds_value", left)))
        left = NULL;
    if (good && (good = cJSON_AddItemToObject(row, "hf_value", right)))
        right = NULL;
    if (good && cJSON_AddItemToArray(hf->mismatches, row))
        return;
    cJSON_Delete(left);
    cJSON_Delete(right);
    cJSON_Delete(row);
    hf->failed = true;
}

void hf_error(zds_hf_config *hf, const char *path, const char *message)
{
    cJSON *row = cJSON_CreateObject();
    if (!row || !cJSON_AddStringToObject(row, "path", path) ||
        !cJSON_AddStringToObject(row, "message", message)) {
        cJSON_Delete(row);
        hf->failed = true;
        return;
    }
    cJSON_AddItemToArray(hf->errors, row);
}

zds_status zds_hf_config_fill_match(zds_hf_config *hf, const char *path,
                                    const struct cJSON *filling, const char *hf_key,
                                    bool must_match)
{
    const char *key;
    cJSON *parent = (cJSON *)zds_hf_config_find_node(hf, path, &key);
    const cJSON *item = parent ? cJSON_GetObjectItemCaseSensitive(parent, key) : NULL;
    if (tree_is_auto(item)) {
        cJSON *copy = cJSON_Duplicate(filling, true);
        if (copy && cJSON_ReplaceItemInObjectCaseSensitive(parent, key, copy))
            return ZDS_OK;
        cJSON_Delete(copy);
        hf->failed = true;
    } else if (must_match && item && !cJSON_IsNull(item) && !equal(item, filling)) {
        note_mismatch(hf, path, item, hf_key, filling);
    }
    return hf->failed ? ZDS_ERR_MEMORY : ZDS_OK;
}

zds_status zds_hf_config_fill_only(zds_hf_config *hf, const char *path, const struct cJSON *filling)
{
    return zds_hf_config_fill_match(hf, path, filling, NULL, false);
}

bool zds_hf_config_mismatch(const zds_hf_config *hf, size_t index, zds_hf_mismatch *mismatch)
{
    const cJSON *row = index < INT32_MAX ? cJSON_GetArrayItem(hf->mismatches, (int)index) : NULL;
    if (!row)
        return false;
    mismatch->ds_key = cJSON_GetObjectItemCaseSensitive(row, "ds_key")->valuestring;
    mismatch->hf_key = cJSON_GetObjectItemCaseSensitive(row, "hf_key")->valuestring;
    mismatch->ds_value = cJSON_GetObjectItemCaseSensitive(row, "ds_value");
    mismatch->hf_value = cJSON_GetObjectItemCaseSensitive(row, "hf_value");
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
    const cJSON *row;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    cJSON_ArrayForEach(row, hf->errors)
    {
        fprintf(out, "%s: %s\n", cJSON_GetObjectItemCaseSensitive(row, "path")->valuestring,
                cJSON_GetObjectItemCaseSensitive(row, "message")->valuestring);
    }
    zds_hf_mismatch m;
    for (size_t i = 0; zds_hf_config_mismatch(hf, i, &m); i++) {
        char has[128], wants[128];
        tree_show(m.ds_value, has, sizeof has);
        tree_show(m.hf_value, wants, sizeof wants);
        fprintf(out, "%s: %s, but the training arguments say %s=%s\n", m.ds_key, has, m.hf_key,
                wants);
    }
    zds_status status = hf->mismatches->child ? ZDS_ERR_MISMATCH
                        : hf->errors->child   ? ZDS_ERR_CONFIG
                                              : ZDS_OK;
    if (fclose(out) == 0 && status != ZDS_OK)
        error_set(error, status, "%.*s", size ? (int)size - 1 : 0, text);
    free(text);
    return status;
}

/* The caller's context, with the arguments that are right; those belong to the caller of this. */
static zds_status own_context(zds_hf_config *hf, const zds_config_context *given, const char *what,
                              zds_config_context *own, zds_error *error)
{
    *own = config_context(given);
    if (!own->arguments)
        return error_set(error, ZDS_ERR_INVALID, "%s: no arguments", what);
    own->arguments = arguments_read(own->arguments, hf->dtype ? NULL : note_argument, hf);
    return own->arguments ? ZDS_OK : error_set(error, ZDS_ERR_MEMORY, "out of memory");
}

zds_status zds_hf_config_process(zds_hf_config *hf, const zds_config_context *context,
                                 zds_error *error)
{
    zds_config_context own;
    zds_status status = own_context(hf, context, "zds_hf_config_process", &own, error);
    if (status)
        return status;
    hf_process(hf, &own);
    cJSON_Delete((cJSON *)own.arguments);
    /* Mismatches are told by finalize, as transformers does. */
    return hf->errors->child || hf->failed ? outcome(hf, error) : ZDS_OK;
}

zds_status zds_hf_config_finalize(zds_hf_config *hf, const zds_config_context *context,
                                  zds_error *error)
{
    zds_config_context own;
    zds_status status = own_context(hf, context, "zds_hf_config_finalize", &own, error);
    if (status)
        return status;
    hf_finalize(hf, &own);
    cJSON_Delete((cJSON *)own.arguments);
    return outcome(hf, error);
}
