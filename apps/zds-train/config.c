/* config.json of a GPT-2: one table says what each key is. */
#include "config.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fail.h"
#include "common/files.h"

enum kind {
    SIZE, /* int64_t, from 1 */
    SIZE_OR_NULL,
    RATE,     /* double, 0 to 1 */
    POSITIVE, /* double, above 0 */
    NOT_BELOW_0,
    FLAG,
    FUNCTION,   /* activation */
    NO_EFFECT,  /* anything: nothing in training a language model reads it */
    MUST_BE_OFF /* null, false, 0 or empty; else refused because of `why` */
};

typedef struct key {
    const char *name, *alias; /* alias: of PreTrainedConfig's attribute_map */
    enum kind kind;
    size_t offset;
    const char *why;
} key;

#define AT(field) offsetof(gpt2_config, field)
static const key keys[] = {
    {"vocab_size", NULL, SIZE, AT(vocab_size), NULL},
    {"n_positions", "max_position_embeddings", SIZE, AT(n_positions), NULL},
    {"n_embd", "hidden_size", SIZE, AT(n_embd), NULL},
    {"n_layer", "num_hidden_layers", SIZE, AT(n_layer), NULL},
    {"n_head", "num_attention_heads", SIZE, AT(n_head), NULL},
    {"n_inner", NULL, SIZE_OR_NULL, AT(n_inner), NULL},
    {"activation_function", NULL, FUNCTION, AT(activation_function), NULL},
    {"resid_pdrop", NULL, RATE, AT(resid_pdrop), NULL},
    {"embd_pdrop", NULL, RATE, AT(embd_pdrop), NULL},
    {"attn_pdrop", NULL, RATE, AT(attn_pdrop), NULL},
    {"layer_norm_epsilon", NULL, POSITIVE, AT(layer_norm_epsilon), NULL},
    {"initializer_range", NULL, NOT_BELOW_0, AT(initializer_range), NULL},
    {"scale_attn_weights", NULL, FLAG, AT(scale_attn_weights), NULL},
    {"scale_attn_by_inverse_layer_idx", NULL, FLAG, AT(scale_attn_by_inverse_layer_idx), NULL},
    {"tie_word_embeddings", NULL, FLAG, AT(tie_word_embeddings), NULL},
    /* the products and the softmax of the attention are always computed in fp32 */
    {"reorder_and_upcast_attn", NULL, NO_EFFECT, 0, NULL},
    {"add_cross_attention", NULL, MUST_BE_OFF, 0, "cross attention needs an encoder"},
    {"is_decoder", NULL, NO_EFFECT, 0, NULL},
    {"is_encoder_decoder", NULL, MUST_BE_OFF, 0, "there is no encoder"},
    {"pruned_heads", NULL, MUST_BE_OFF, 0, "pruned heads are not supported"},
    {"quantization_config", NULL, MUST_BE_OFF, 0, "quantised weights cannot be trained"},
    {"tie_encoder_decoder", NULL, MUST_BE_OFF, 0, "there is no encoder"},
    {"use_bfloat16", NULL, MUST_BE_OFF, 0, "the precision is the ds_config's to say"},
    /* heads of other tasks, generation, and what the library notes down */
    {"summary_type", NULL, NO_EFFECT, 0, NULL},
    {"summary_use_proj", NULL, NO_EFFECT, 0, NULL},
    {"summary_activation", NULL, NO_EFFECT, 0, NULL},
    {"summary_proj_to_labels", NULL, NO_EFFECT, 0, NULL},
    {"summary_first_dropout", NULL, NO_EFFECT, 0, NULL},
    {"num_labels", NULL, NO_EFFECT, 0, NULL},
    {"id2label", NULL, NO_EFFECT, 0, NULL},
    {"label2id", NULL, NO_EFFECT, 0, NULL},
    {"problem_type", NULL, NO_EFFECT, 0, NULL},
    {"use_cache", NULL, NO_EFFECT, 0, NULL},
    {"bos_token_id", NULL, NO_EFFECT, 0, NULL},
    {"eos_token_id", NULL, NO_EFFECT, 0, NULL},
    {"pad_token_id", NULL, NO_EFFECT, 0, NULL},
    {"sep_token_id", NULL, NO_EFFECT, 0, NULL},
    {"decoder_start_token_id", NULL, NO_EFFECT, 0, NULL},
    {"n_ctx", NULL, NO_EFFECT, 0, NULL}, /* of old files; transformers reads n_positions */
    {"task_specific_params", NULL, NO_EFFECT, 0, NULL},
    {"output_hidden_states", NULL, NO_EFFECT, 0, NULL},
    {"output_attentions", NULL, NO_EFFECT, 0, NULL},
    {"output_past", NULL, NO_EFFECT, 0, NULL},
    {"return_dict", NULL, NO_EFFECT, 0, NULL},
    {"chunk_size_feed_forward", NULL, NO_EFFECT, 0, NULL}, /* GPT-2 does not chunk */
    {"gradient_checkpointing", NULL, NO_EFFECT, 0, NULL},  /* changes memory, not numbers */
    {"torchscript", NULL, NO_EFFECT, 0, NULL},
    {"_attn_implementation", NULL, NO_EFFECT, 0, NULL},
    {"attn_implementation", NULL, NO_EFFECT, 0, NULL},
    {"_name_or_path", NULL, NO_EFFECT, 0, NULL},
    {"name_or_path", NULL, NO_EFFECT, 0, NULL},
    {"transformers_version", NULL, NO_EFFECT, 0, NULL},
    {"tokenizer_class", NULL, NO_EFFECT, 0, NULL},
    {"prefix", NULL, NO_EFFECT, 0, NULL},
    {"finetuning_task", NULL, NO_EFFECT, 0, NULL},
    {"architectures", NULL, NO_EFFECT, 0, NULL}, /* these four are looked at by check_kind */
    {"model_type", NULL, NO_EFFECT, 0, NULL},
    {"dtype", NULL, NO_EFFECT, 0, NULL},
    {"torch_dtype", NULL, NO_EFFECT, 0, NULL},
};

static const struct {
    const char *name;
    activation value;
} functions[] = {{"gelu_new", ACTIVATION_GELU_NEW},  {"gelu_pytorch_tanh", ACTIVATION_GELU_NEW},
                 {"gelu_fast", ACTIVATION_GELU_NEW}, {"gelu", ACTIVATION_GELU},
                 {"relu", ACTIVATION_RELU},          {"silu", ACTIVATION_SILU},
                 {"swish", ACTIVATION_SILU},         {"tanh", ACTIVATION_TANH}};

/* Lines of problems. */
typedef struct problems {
    const char *path;
    FILE *out;
    size_t count;
} problems;

static void problem(problems *p, const char *name, const char *text)
{
    fprintf(p->out, "%s%s: %s: %s", p->count++ ? "\n" : "", p->path, name, text);
}

static bool number_between(const cJSON *item, double low, double high, double *value)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= low && item->valuedouble <= high))
        return false;
    *value = item->valuedouble;
    return true;
}

static bool is_off(const cJSON *item)
{
    return cJSON_IsNull(item) || cJSON_IsFalse(item) ||
           (cJSON_IsNumber(item) && item->valuedouble == 0) ||
           ((cJSON_IsArray(item) || cJSON_IsObject(item)) && !item->child);
}

static void take(const key *k, const cJSON *item, gpt2_config *config, problems *p)
{
    void *to = (char *)config + k->offset;
    double number = 0;
    switch (k->kind) {
    case SIZE_OR_NULL:
        if (cJSON_IsNull(item))
            return;
        /* fall through */
    case SIZE:
        if (number_between(item, 1, 1 << 30, &number) && number == floor(number))
            *(int64_t *)to = (int64_t)number;
        else
            problem(p, item->string, "must be an integer from 1 to 2^30");
        return;
    case RATE:
        if (!number_between(item, 0, 1, to))
            problem(p, item->string, "must be a probability from 0 to 1");
        return;
    case POSITIVE:
    case NOT_BELOW_0:
        if (number_between(item, 0, 1e30, &number) && (number > 0 || k->kind == NOT_BELOW_0))
            *(double *)to = number;
        else
            problem(p, item->string,
                    k->kind == POSITIVE ? "must be a number above 0" : "must be a number from 0");
        return;
    case FLAG:
        if (cJSON_IsBool(item))
            *(bool *)to = cJSON_IsTrue(item);
        else
            problem(p, item->string, "must be true or false");
        return;
    case FUNCTION:
        for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
            if (cJSON_IsString(item) && strcmp(item->valuestring, functions[i].name) == 0) {
                *(activation *)to = functions[i].value;
                return;
            }
        problem(p, item->string,
                "must be one of gelu_new, gelu_pytorch_tanh, gelu_fast, gelu, "
                "relu, silu, swish, tanh");
        return;
    case MUST_BE_OFF:
        if (!is_off(item)) {
            char text[160];
            snprintf(text, sizeof text, "is not implemented: %s; set it to false or remove it",
                     k->why);
            problem(p, item->string, text);
        }
        return;
    case NO_EFFECT:
        return;
    }
}

static bool one_of(const cJSON *item, const char *const *words)
{
    for (; *words; words++)
        if (cJSON_IsString(item) && strcmp(item->valuestring, *words) == 0)
            return true;
    return false;
}

static void check_kind(const cJSON *tree, problems *p)
{
    static const char *const types[] = {"gpt2", NULL};
    static const char *const models[] = {"GPT2LMHeadModel", "GPT2Model", NULL};
    static const char *const dtypes[] = {"float32", "float16", "bfloat16", NULL};
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(tree, "model_type");
    const cJSON *models_of = cJSON_GetObjectItemCaseSensitive(tree, "architectures");
    if (!one_of(type, types))
        problem(p, "model_type", "must be \"gpt2\": zds-train trains no other models");
    if (models_of && !cJSON_IsNull(models_of) &&
        !(cJSON_GetArraySize(models_of) == 1 && one_of(models_of->child, models)))
        problem(p, "architectures",
                "must be [\"GPT2LMHeadModel\"] or [\"GPT2Model\"]: other heads "
                "cannot be trained");
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "torch_dtype" : "dtype";
        const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(tree, name);
        if (dtype && !cJSON_IsNull(dtype) && !one_of(dtype, dtypes))
            problem(p, name, "must be float32, float16 or bfloat16");
    }
}

static void check_keys(const cJSON *tree, gpt2_config *config, problems *p)
{
    bool given[sizeof keys / sizeof *keys] = {false};
    for (const cJSON *item = tree->child; item; item = item->next) {
        size_t i = 0, n = sizeof keys / sizeof *keys;
        while (i < n && strcmp(keys[i].name, item->string) != 0 &&
               !(keys[i].alias && strcmp(keys[i].alias, item->string) == 0))
            i++;
        if (i == n) {
            problem(p, item->string,
                    "is not a key of GPT-2's config that zds-train knows; remove "
                    "it if the model does not depend on it");
        } else if (given[i]) {
            problem(p, item->string, "is there twice (perhaps under two names)");
        } else {
            given[i] = true;
            take(&keys[i], item, config, p);
        }
    }
    check_kind(tree, p);
    if (config->n_head > 0 && config->n_embd % config->n_head)
        problem(p, "n_head", "must divide n_embd");
}

zds_status gpt2_config_read(const char *path, gpt2_config *config, zds_error *error)
{
    char *text = NULL, *list = NULL;
    size_t size, list_size;
    *config = (gpt2_config){.vocab_size = 50257,
                            .n_positions = 1024,
                            .n_embd = 768,
                            .n_layer = 12,
                            .n_head = 12,
                            .activation_function = ACTIVATION_GELU_NEW,
                            .resid_pdrop = 0.1,
                            .embd_pdrop = 0.1,
                            .attn_pdrop = 0.1,
                            .layer_norm_epsilon = 1e-5,
                            .initializer_range = 0.02,
                            .scale_attn_weights = true,
                            .tie_word_embeddings = true};
    zds_status status = file_read(path, 16 << 20, &text, &size, error);
    if (status)
        return status;
    const char *end = NULL;
    config->tree = cJSON_ParseWithLengthOpts(text, size + 1, &end, true);
    if (!cJSON_IsObject(config->tree)) {
        size_t line = 1;
        for (const char *c = text; end && c < end && *c; c++)
            line += *c == '\n';
        status = fail(error, ZDS_ERR_FORMAT, "%s:%zu: is not a JSON object", path, line);
        goto out;
    }
    problems p = {.path = path, .out = open_memstream(&list, &list_size)};
    if (!p.out) {
        status = fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", path);
        goto out;
    }
    check_keys(config->tree, config, &p);
    fclose(p.out);
    if (p.count)
        status = fail(error, ZDS_ERR_UNSUPPORTED, "%s", list);
    if (config->n_inner == 0)
        config->n_inner = 4 * config->n_embd;
out:
    free(list);
    free(text);
    if (status)
        gpt2_config_clear(config);
    return status;
}

void gpt2_config_clear(gpt2_config *config)
{
    cJSON_Delete(config->tree);
    config->tree = NULL;
}

char *gpt2_config_text(const gpt2_config *config, zds_dtype dtype)
{
    static const char *const model = "GPT2LMHeadModel";
    cJSON *tree = cJSON_Duplicate(config->tree, true);
    char *text = NULL;
    const char *name = dtype == ZDS_BF16 ? "bfloat16" : dtype == ZDS_F16 ? "float16" : "float32";
    cJSON_DeleteItemFromObjectCaseSensitive(tree, "torch_dtype");
    cJSON_DeleteItemFromObjectCaseSensitive(tree, "dtype");
    cJSON_DeleteItemFromObjectCaseSensitive(tree, "architectures");
    cJSON *models = cJSON_CreateStringArray(&model, 1);
    if (cJSON_AddStringToObject(tree, "dtype", name)) {
        if (cJSON_AddItemToObject(tree, "architectures", models)) {
            models = NULL;
            text = cJSON_Print(tree);
        }
    }
    cJSON_Delete(models);
    cJSON_Delete(tree);
    return text;
}
