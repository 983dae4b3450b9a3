/* config.json of a GPT-2 in transformers' format. */
#ifndef ZDS_TRAIN_CONFIG_H
#define ZDS_TRAIN_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels.h"
#include "zds/types.h"

struct cJSON;

/* GPT2Config's fields that a language model's training needs, under their names there. */
typedef struct gpt2_config {
    int64_t vocab_size, n_positions, n_embd, n_layer, n_head;
    int64_t n_inner; /* 4 n_embd where the file says null */
    activation activation_function;
    double resid_pdrop, embd_pdrop, attn_pdrop;
    double layer_norm_epsilon, initializer_range;
    bool scale_attn_weights, scale_attn_by_inverse_layer_idx, tie_word_embeddings;
    struct cJSON *tree; /* the file as read */
} gpt2_config;

/* Every key is either used, known to change nothing in training a language model, or refused. All
 * problems are in the error's text, one a line. ZDS_ERR_NOT_FOUND, ZDS_ERR_IO, ZDS_ERR_FORMAT,
 * ZDS_ERR_UNSUPPORTED. */
zds_status gpt2_config_read(const char *path, gpt2_config *config, zds_error *error);
void gpt2_config_clear(gpt2_config *config);

/* The file with "dtype" and "architectures" as the trained model has them; the caller frees it with
 * free. NULL if memory ends. */
char *gpt2_config_text(const gpt2_config *config, zds_dtype dtype);

#endif
