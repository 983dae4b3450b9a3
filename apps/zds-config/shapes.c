/* The shapes of a model, as the engine wants them described: of a folder in transformers' format,
 * or of so many parameters. */
#include "shapes.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fail.h"
#include "common/safetensors.h"

enum { MOST_LAYERS = 100000, NO_LAYER = -1 };

/* Parts of a model in forward order. */
enum { EMBEDDINGS, LAYERS, REST };

typedef struct tensor {
    char *name;
    uint32_t ndim;
    int64_t shape[SAFETENSORS_MAX_DIMS];
    int part;
    long layer;
    uint64_t count;
} tensor;

typedef struct tensors {
    tensor *list;
    size_t count, space;
    bool failed;
} tensors;

/* === collecting === */

/* The number of "transformer.h.11.ln_1.weight" is 11; the first one counts. */
static long layer_of(const char *name)
{
    for (const char *p = name; p; p = strchr(p, '.')) {
        p += *p == '.';
        size_t digits = strspn(p, "0123456789");
        if (digits && digits < 7 && p[digits] == '.')
            return atol(p);
    }
    return NO_LAYER;
}

static int part_of(const char *name, long layer)
{
    static const char *const words[] = {"wte.", "wpe.", "embed"};
    if (layer != NO_LAYER)
        return LAYERS;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strstr(name, words[i]))
            return EMBEDDINGS;
    return REST;
}

static void add_shape(tensors *t, const char *name, uint32_t ndim, const int64_t *shape)
{
    if (t->count == t->space) {
        size_t space = t->space ? 2 * t->space : 256;
        tensor *grown = realloc(t->list, space * sizeof *grown);
        t->failed |= !grown;
        if (!grown)
            return;
        t->list = grown;
        t->space = space;
    }
    tensor *one = &t->list[t->count];
    *one = (tensor){.name = strdup(name), .ndim = ndim, .layer = layer_of(name), .count = 1};
    t->failed |= !one->name;
    if (!one->name)
        return;
    one->part = part_of(name, one->layer);
    for (uint32_t d = 0; d < ndim; d++) {
        one->shape[d] = shape[d];
        one->count *= (uint64_t)shape[d];
    }
    t->count++;
}

/* `rows` 0: a vector. */
static void add(tensors *t, int64_t rows, int64_t columns, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void add(tensors *t, int64_t rows, int64_t columns, const char *format, ...)
{
    char name[128];
    const int64_t shape[] = {rows ? rows : columns, columns};
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    add_shape(t, name, rows ? 2 : 1, shape);
}

/* === config.json === */

/* A size of config.json; `missing` where it is absent or null, -1 where it is none. */
static int64_t size_of(const cJSON *config, const char *name, int64_t missing)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(config, name);
    if (!node || cJSON_IsNull(node))
        return missing;
    double x = cJSON_IsNumber(node) ? node->valuedouble : 0;
    return x >= 1 && x <= 1 << 30 && x == (double)(int64_t)x ? (int64_t)x : -1;
}

static bool add_gpt2(tensors *t, const cJSON *c)
{
    int64_t d = size_of(c, "n_embd", 768), layers = size_of(c, "n_layer", 12),
            v = size_of(c, "vocab_size", 50257), positions = size_of(c, "n_positions", 1024),
            f = size_of(c, "n_inner", d > 0 ? 4 * d : -1);
    if (d < 1 || layers < 1 || layers > MOST_LAYERS || v < 1 || positions < 1 || f < 1)
        return false;
    add(t, v, d, "wte.weight");
    add(t, positions, d, "wpe.weight");
    for (int l = 0; l < (int)layers; l++) {
        const struct {
            const char *name;
            int64_t in, out;
        } matrices[] = {{"attn.c_attn", d, 3 * d},
                        {"attn.c_proj", d, d},
                        {"mlp.c_fc", d, f},
                        {"mlp.c_proj", f, d}};
        for (size_t i = 0; i < 4; i++) {
            add(t, matrices[i].in, matrices[i].out, "h.%d.%s.weight", l, matrices[i].name);
            add(t, 0, matrices[i].out, "h.%d.%s.bias", l, matrices[i].name);
        }
        for (int i = 1; i <= 2; i++) {
            add(t, 0, d, "h.%d.ln_%d.weight", l, i);
            add(t, 0, d, "h.%d.ln_%d.bias", l, i);
        }
    }
    add(t, 0, d, "ln_f.weight");
    add(t, 0, d, "ln_f.bias");
    add(t, v, d, "lm_head.weight");
    return true;
}

/* Llama, Mistral and Qwen2, whose projections of queries, keys and values have a bias. */
static bool add_llama(tensors *t, const cJSON *c, bool bias)
{
    int64_t d = size_of(c, "hidden_size", 0), layers = size_of(c, "num_hidden_layers", 0),
            f = size_of(c, "intermediate_size", 0), v = size_of(c, "vocab_size", 0),
            heads = size_of(c, "num_attention_heads", 0),
            kv = size_of(c, "num_key_value_heads", heads),
            width = size_of(c, "head_dim", heads > 0 ? d / heads : 0);
    if (d < 1 || layers < 1 || layers > MOST_LAYERS || f < 1 || v < 1 || heads < 1 || kv < 1 ||
        width < 1)
        return false;
    add(t, v, d, "model.embed_tokens.weight");
    for (int l = 0; l < (int)layers; l++) {
        const struct {
            const char *name;
            int64_t out, in;
            bool bias;
        } matrices[] = {{"self_attn.q_proj", heads * width, d, bias},
                        {"self_attn.k_proj", kv * width, d, bias},
                        {"self_attn.v_proj", kv * width, d, bias},
                        {"self_attn.o_proj", d, heads * width, false},
                        {"mlp.gate_proj", f, d, false},
                        {"mlp.up_proj", f, d, false},
                        {"mlp.down_proj", d, f, false}};
        for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
            add(t, matrices[i].out, matrices[i].in, "model.layers.%d.%s.weight", l,
                matrices[i].name);
            if (matrices[i].bias)
                add(t, 0, matrices[i].out, "model.layers.%d.%s.bias", l, matrices[i].name);
        }
        add(t, 0, d, "model.layers.%d.input_layernorm.weight", l);
        add(t, 0, d, "model.layers.%d.post_attention_layernorm.weight", l);
    }
    add(t, 0, d, "model.norm.weight");
    add(t, v, d, "lm_head.weight");
    return true;
}

static const char *model_type(const cJSON *config)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(config, "model_type");
    return cJSON_IsString(type) ? type->valuestring : "";
}

static zds_status add_from_config(tensors *t, const char *folder, const cJSON *config,
                                  zds_error *error)
{
    const char *type = model_type(config);
    bool gpt2 = strcmp(type, "gpt2") == 0, qwen = strcmp(type, "qwen2") == 0,
         llama = qwen || strcmp(type, "llama") == 0 || strcmp(type, "mistral") == 0;
    if (!gpt2 && !llama)
        return fail(error, ZDS_ERR_UNSUPPORTED,
                    "%s: has no safetensors, and of a config.json of model_type \"%.40s\" the "
                    "shapes are not known here (of gpt2, llama, mistral and qwen2 they are); use "
                    "--params",
                    folder, type);
    if (gpt2 ? add_gpt2(t, config) : add_llama(t, config, qwen))
        return ZDS_OK;
    return fail(error, ZDS_ERR_INVALID,
                "%s/config.json: a size of the model is missing, or is no number that makes sense",
                folder);
}

/* === safetensors === */

/* Masks that old versions of GPT-2 saved; no parameters. */
static bool is_buffer(const char *name)
{
    static const char *const ends[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);
        if (length > n && strcmp(name + length - n, ends[i]) == 0)
            return true;
    }
    return false;
}

static zds_status add_from_files(tensors *t, const char *path, zds_error *error)
{
    safetensors *file;
    zds_status status = safetensors_open(path, &file, error);
    if (status)
        return status;
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const safetensors_tensor *one = safetensors_at(file, i);
        if (!is_buffer(one->name))
            add_shape(t, one->name, one->ndim, one->shape);
    }
    safetensors_close(file);
    return ZDS_OK;
}

/* === the model === */

/* Whether the output matrix is the embedding: GPT2Config's default is yes, the others' no. */
static bool is_tied(const tensors *t, const cJSON *config)
{
    const cJSON *said = cJSON_GetObjectItemCaseSensitive(config, "tie_word_embeddings");
    if (cJSON_IsBool(said))
        return cJSON_IsTrue(said);
    bool head = false;
    for (size_t i = 0; i < t->count; i++)
        head |= strcmp(t->list[i].name, "lm_head.weight") == 0;
    return !head || strcmp(model_type(config), "gpt2") == 0;
}

static int by_place(const void *left, const void *right)
{
    const tensor *a = left, *b = right;
    if (a->part != b->part)
        return a->part - b->part;
    if (a->layer != b->layer)
        return a->layer < b->layer ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int32_t role_of(const tensor *one)
{
    size_t length = strlen(one->name);
    if (one->ndim > 1)
        return one->part == EMBEDDINGS ? ZDS_ROLE_EMBEDDING
               : one->part == REST     ? ZDS_ROLE_HEAD
                                       : ZDS_ROLE_MATRIX;
    return length > 5 && strcmp(one->name + length - 5, ".bias") == 0 ? ZDS_ROLE_BIAS
                                                                      : ZDS_ROLE_NORM;
}

static zds_status describe(tensors *t, bool tied, shapes *out)
{
    uint32_t module = 0, index = 0, table = 0;
    uint64_t module_count = 0, table_count = 0;
    zds_status status = ZDS_OK;
    bool rest = false;
    const tensor *last = NULL;
    for (size_t i = 0; i < t->count && !status; i++) {
        const tensor *one = &t->list[i];
        if (tied && strcmp(one->name, "lm_head.weight") == 0)
            continue;
        if (!last || last->part != one->part || last->layer != one->layer) {
            status = zds_model_add_module(out->model, one->name, &module);
            module_count = 0;
            last = one;
        }
        rest |= one->part == REST;
        zds_param_desc desc = {.struct_size = sizeof desc,
                               .name = one->name,
                               .shape = one->shape,
                               .ndim = one->ndim,
                               .role = role_of(one)};
        if (!status)
            status = zds_model_add_param(out->model, module, &desc, &index);
        if (one->part == EMBEDDINGS && one->ndim == 2 && one->count > table_count) {
            table = index;
            table_count = one->count;
        }
        module_count += one->count;
        out->parameters += (double)one->count;
        if ((double)module_count > out->largest)
            out->largest = (double)module_count;
    }
    if (!status && tied && rest && table_count)
        status = zds_model_add_use(out->model, module, table);
    return status;
}

/* `name`: of the model, for errors. */
static zds_status build(tensors *t, bool tied, const char *name, shapes *out, zds_error *error)
{
    *out = (shapes){.model = zds_model_create()};
    if (t->failed || !out->model)
        return fail(error, ZDS_ERR_MEMORY, "out of memory");
    if (t->count == 0)
        return fail(error, ZDS_ERR_INVALID, "%s: its safetensors hold no parameter", name);
    qsort(t->list, t->count, sizeof *t->list, by_place);
    zds_status status = describe(t, tied, out);
    return status ? fail(error, status, "%s: %s", name, zds_model_error(out->model)) : ZDS_OK;
}

static void clear(tensors *t)
{
    for (size_t k = 0; k < t->count; k++)
        free(t->list[k].name);
    free(t->list);
}

zds_status shapes_layers(int64_t parameters, shapes *out, zds_error *error)
{
    enum { LAYER_COUNT = 32 };
    tensors t = {0};
    for (int l = 0; l < LAYER_COUNT; l++) {
        int64_t count = parameters / LAYER_COUNT + (l < parameters % LAYER_COUNT);
        int64_t rows = (int64_t)sqrt((double)count), columns = rows ? count / rows : 0;
        if (rows)
            add(&t, rows, columns, "h.%d.weight", l);
        if (count > rows * columns)
            add(&t, 0, count - rows * columns, "h.%d.bias", l);
    }
    zds_status status = build(&t, false, "--params", out, error);
    clear(&t);
    return status;
}

/* The object in a JSON file of moderate size. */
static zds_status read_json(const char *path, cJSON **tree, zds_error *error)
{
    enum { MOST = 16 << 20 };
    FILE *in = fopen(path, "rbe");
    char *text = in ? malloc(MOST + 1) : NULL;
    size_t length = text ? fread(text, 1, MOST, in) : 0;
    zds_status status = ZDS_OK;
    if (!in) {
        status = fail(error, ZDS_ERR_IO, "%s: %m", path);
    } else if (!text || ferror(in) || !feof(in)) {
        status = fail(error, ZDS_ERR_IO, "%s: cannot be read, or is longer than 16 MiB", path);
    } else {
        text[length] = '\0';
        *tree = cJSON_ParseWithLength(text, length);
        if (!cJSON_IsObject(*tree))
            status = fail(error, ZDS_ERR_INVALID, "%s: is no JSON object", path);
    }
    free(text);
    if (in)
        fclose(in);
    return status;
}

/* ZDS_OK for a folder. */
static zds_status check_folder(const char *folder, zds_error *error)
{
    struct stat info;
    if (stat(folder, &info) != 0)
        return fail(error, errno == ENOENT ? ZDS_ERR_NOT_FOUND : ZDS_ERR_IO,
                    "%s: %s; give a folder with a model as transformers saves it (models are not "
                    "fetched from anywhere), or --params N",
                    folder, errno == ENOENT ? "there is no such folder" : strerror(errno));
    return S_ISDIR(info.st_mode)
               ? ZDS_OK
               : fail(error, ZDS_ERR_INVALID,
                      "%s: is no folder; give the one that holds config.json or the safetensors",
                      folder);
}

zds_status shapes_read(const char *folder, shapes *out, zds_error *error)
{
    static const char *const names[] = {"model.safetensors.index.json", "model.safetensors"};
    tensors t = {0};
    char path[4096];
    size_t i = 0;
    cJSON *config = NULL;
    *out = (shapes){0};
    zds_status status = check_folder(folder, error);
    snprintf(path, sizeof path, "%s/config.json", folder);
    if (!status && access(path, F_OK) == 0)
        status = read_json(path, &config, error);
    for (; i < 2 && !status; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (access(path, F_OK) == 0)
            break;
    }
    if (!status && i < 2)
        status = add_from_files(&t, path, error);
    else if (!status && config)
        status = add_from_config(&t, folder, config, error);
    else if (!status)
        status = fail(error, ZDS_ERR_NOT_FOUND,
                      "%s: holds neither safetensors nor a config.json; give a folder with a model "
                      "as transformers saves it, or --params N",
                      folder);
    if (!status)
        status = build(&t, is_tied(&t, config), folder, out, error);
    clear(&t);
    cJSON_Delete(config);
    return status;
}

void shapes_release(shapes *s)
{
    zds_model_destroy(s->model);
}
