/* The parameters of a GPT-2 and the values they start with. */
#include "params.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fail.h"
#include "common/files.h"
#include "gpt2.h"
#include "kernels.h"

#define PREFIX "transformer."

/* === names and shapes === */

static void add(params *p, uint32_t module, int32_t role, int64_t rows, int64_t columns, double std,
                const char *format, ...) __attribute__((format(printf, 7, 8)));

/* `rows` 0: a vector. */
static void add(params *p, uint32_t module, int32_t role, int64_t rows, int64_t columns, double std,
                const char *format, ...)
{
    param *out = &p->list[p->count++];
    va_list args;
    va_start(args, format);
    vsnprintf(out->name, sizeof out->name, format, args);
    va_end(args);
    out->module = module;
    out->role = role;
    out->ndim = rows ? 2 : 1;
    out->shape[0] = rows ? rows : columns;
    out->shape[1] = rows ? columns : 0;
    out->std = std;
    size_t length = strlen(out->name);
    bool bias = length > 5 && strcmp(out->name + length - 5, ".bias") == 0;
    out->constant = role == ZDS_ROLE_NORM && !bias ? 1 : 0;
    out->group = bias || role == ZDS_ROLE_NORM ? GROUP_NO_DECAY : GROUP_DECAY;
}

static void add_block(params *p, const gpt2_config *c, int layer)
{
    static const struct {
        const char *name;
        int32_t role;
    } rows[BLOCK_PARAMS] = {
        [LN1_W] = {"ln_1.weight", ZDS_ROLE_NORM},
        [LN1_B] = {"ln_1.bias", ZDS_ROLE_NORM},
        [QKV_W] = {"attn.c_attn.weight", ZDS_ROLE_MATRIX},
        [QKV_B] = {"attn.c_attn.bias", ZDS_ROLE_BIAS},
        [PROJ_W] = {"attn.c_proj.weight", ZDS_ROLE_MATRIX},
        [PROJ_B] = {"attn.c_proj.bias", ZDS_ROLE_BIAS},
        [LN2_W] = {"ln_2.weight", ZDS_ROLE_NORM},
        [LN2_B] = {"ln_2.bias", ZDS_ROLE_NORM},
        [FC_W] = {"mlp.c_fc.weight", ZDS_ROLE_MATRIX},
        [FC_B] = {"mlp.c_fc.bias", ZDS_ROLE_BIAS},
        [OUT_W] = {"mlp.c_proj.weight", ZDS_ROLE_MATRIX},
        [OUT_B] = {"mlp.c_proj.bias", ZDS_ROLE_BIAS},
    };
    int64_t d = c->n_embd, f = c->n_inner;
    const int64_t in[BLOCK_PARAMS] = {[QKV_W] = d, [PROJ_W] = d, [FC_W] = d, [OUT_W] = f};
    const int64_t out[BLOCK_PARAMS] = {[QKV_W] = 3 * d, [QKV_B] = 3 * d, [FC_W] = f, [FC_B] = f};
    /* the scheme of the GPT-2 paper: projections into the residual stream start smaller */
    double std = c->initializer_range, small = std / sqrt(2.0 * (double)c->n_layer);
    for (int i = 0; i < BLOCK_PARAMS; i++)
        add(p, 1 + (uint32_t)layer, rows[i].role, in[i], out[i] ? out[i] : d,
            in[i] == 0                  ? 0
            : i == PROJ_W || i == OUT_W ? small
                                        : std,
            PREFIX "h.%d.%s", layer, rows[i].name);
}

zds_status params_create(const gpt2_config *c, params *p, zds_error *error)
{
    *p = (params){.layers = c->n_layer, .tied = c->tie_word_embeddings};
    size_t count = 5 + BLOCK_PARAMS * (size_t)c->n_layer;
    p->list = calloc(count, sizeof *p->list);
    if (!p->list)
        return fail(error, ZDS_ERR_MEMORY, "there is no memory for the model's description");
    uint32_t last = 1 + (uint32_t)c->n_layer;
    add(p, 0, ZDS_ROLE_EMBEDDING, c->vocab_size, c->n_embd, c->initializer_range,
        PREFIX "wte.weight");
    add(p, 0, ZDS_ROLE_EMBEDDING, c->n_positions, c->n_embd, c->initializer_range,
        PREFIX "wpe.weight");
    for (int l = 0; l < (int)c->n_layer; l++)
        add_block(p, c, l);
    add(p, last, ZDS_ROLE_NORM, 0, c->n_embd, 0, PREFIX "ln_f.weight");
    add(p, last, ZDS_ROLE_NORM, 0, c->n_embd, 0, PREFIX "ln_f.bias");
    if (!p->tied)
        add(p, last, ZDS_ROLE_HEAD, c->vocab_size, c->n_embd, c->initializer_range,
            "lm_head.weight");
    return ZDS_OK;
}

void params_destroy(params *p)
{
    free(p->list);
    *p = (params){0};
}

uint64_t param_elements(const param *p)
{
    return (uint64_t)p->shape[0] * (p->ndim == 2 ? (uint64_t)p->shape[1] : 1);
}

zds_status params_describe(const params *p, zds_model *model, zds_error *error)
{
    zds_status status = ZDS_OK;
    uint32_t index, modules = 2 + (uint32_t)p->layers;
    for (uint32_t m = 0; m < modules && !status; m++) {
        char name[32] = "embeddings";
        if (m == modules - 1)
            strcpy(name, "head");
        else if (m > 0)
            snprintf(name, sizeof name, "h.%u", m - 1);
        status = zds_model_add_module(model, name, &index);
    }
    for (size_t i = 0; i < p->count && !status; i++) {
        const param *one = &p->list[i];
        zds_param_desc desc = {.struct_size = sizeof desc,
                               .name = one->name,
                               .shape = one->shape,
                               .ndim = one->ndim,
                               .role = one->role,
                               .group = one->group};
        status = zds_model_add_param(model, one->module, &desc, &index);
    }
    if (!status && p->tied)
        status = zds_model_add_use(model, modules - 1, WTE);
    return status ? fail(error, status, "%s", zds_model_error(model)) : ZDS_OK;
}

/* === initial values === */

/* What GPT2LMHeadModel ignores: masks that old versions saved as buffers. */
static bool ignored(const char *name)
{
    static const char *const ends[] = {".attn.bias", ".attn.masked_bias"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);
        if (length > n && strcmp(name + length - n, ends[i]) == 0)
            return true;
    }
    return false;
}

static zds_status match(const param *want, const safetensors *file, const char *path,
                        const safetensors_tensor **out, zds_error *error)
{
    const safetensors_tensor *t = safetensors_find(file, want->name);
    if (!t && strncmp(want->name, PREFIX, sizeof PREFIX - 1) == 0)
        t = safetensors_find(file, want->name + sizeof PREFIX - 1);
    if (!t)
        return fail(error, ZDS_ERR_FORMAT, "%s: has no tensor %s, which config.json asks for", path,
                    want->name);
    bool same = t->ndim == want->ndim;
    for (uint32_t d = 0; d < want->ndim && same; d++)
        same = t->shape[d] == want->shape[d];
    if (!same)
        return fail(error, ZDS_ERR_FORMAT,
                    "%s: tensor %s: its shape (%lld%s%.0lld) is not the one that config.json asks "
                    "for (%lld%s%.0lld)",
                    t->file, t->name, (long long)(t->ndim ? t->shape[0] : 0),
                    t->ndim > 1 ? ", " : "", (long long)(t->ndim > 1 ? t->shape[1] : 0),
                    (long long)want->shape[0], want->ndim > 1 ? ", " : "",
                    (long long)want->shape[1]);
    *out = t;
    float none;
    return safetensors_read(t, 0, 0, &none, error); /* refuses dtypes that cannot be weights */
}

/* Tensors that nothing asked for mean that the config is another model's. */
static zds_status check_rest(const source *s, const char *path, zds_error *error)
{
    const safetensors_tensor *all = safetensors_at(s->file, 0);
    size_t count = safetensors_count(s->file);
    bool *used = calloc(count + 1, sizeof *used);
    zds_status status =
        used ? ZDS_OK : fail(error, ZDS_ERR_MEMORY, "there is no memory for the model's weights");
    for (size_t k = 0; k < s->params->count && !status; k++)
        used[s->tensors[k] - all] = true;
    for (size_t i = 0; i < count && !status; i++) {
        const char *name = all[i].name;
        if (!used[i] && !ignored(name) && !(s->params->tied && strcmp(name, "lm_head.weight") == 0))
            status = fail(error, ZDS_ERR_FORMAT,
                          "%s: holds a tensor %s that config.json does not describe", path, name);
    }
    free(used);
    return status;
}

zds_status source_open(const char *folder, const params *p, source *s, zds_error *error)
{
    char *whole = path_join(folder, "model.safetensors");
    char *index = path_join(folder, "model.safetensors.index.json");
    zds_status status = ZDS_OK;
    s->params = p;
    s->tensors = calloc(p->count, sizeof *s->tensors);
    if (!whole || !index || !s->tensors) {
        status = fail(error, ZDS_ERR_MEMORY, "there is no memory for the model's weights");
        goto out;
    }
    const char *path = access(whole, F_OK) == 0 || access(index, F_OK) != 0 ? whole : index;
    status = safetensors_open(path, &s->file, error);
    for (size_t i = 0; i < p->count && !status; i++)
        status = match(&p->list[i], s->file, path, &s->tensors[i], error);
    if (!status)
        status = check_rest(s, path, error);
out:
    free(whole);
    free(index);
    if (status)
        source_close(s);
    return status;
}

void source_close(source *s)
{
    safetensors_close(s->file);
    free(s->tensors);
    zds_error_clear(&s->error);
    *s = (source){0};
}

zds_status source_read(void *user, uint32_t index, uint64_t first, uint64_t count, float *out)
{
    source *s = user;
    if (s->file)
        return safetensors_read(s->tensors[index], first, count, out, &s->error);
    const param *p = &s->params->list[index];
    if (p->std > 0) {
        random_stream stream = {{(uint32_t)s->seed, (uint32_t)(s->seed >> 32)},
                                {0x696e6974u, index, 0}};
        kernels_best()->normals(&stream, first, count, (float)p->std, out);
    } else {
        for (uint64_t i = 0; i < count; i++)
            out[i] = (float)p->constant;
    }
    return ZDS_OK;
}
