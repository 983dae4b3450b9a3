/* GPT-2's forward and backward passes on plain pointers, layer by layer, without knowing who owns
 * parameters and gradients. The numbers are those of transformers' GPT2LMHeadModel in fp32.
 *
 * One object holds the activations of one micro batch. Per layer it keeps the two residual streams,
 * q, k, v and the hidden layer before its activation function; the rest is recomputed. Backward
 * replaces them by gradients in place, so that a forward pass can be walked back once.
 *
 * Notation: B batch, T positions, M = B T rows, D n_embd, F n_inner, V vocabulary, H heads. */
#ifndef ZDS_TRAIN_GPT2_H
#define ZDS_TRAIN_GPT2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "zds/types.h"

/* Who computes: run(context, n, body, arg) calls body(arg, i) for each i < n, on `threads` threads.
 */
typedef struct workers {
    void (*run)(void *context, size_t n, void (*body)(void *arg, size_t i), void *arg);
    void *context;
    size_t threads;
} workers;

/* A block's parameters, in the order in which transformers lists them. Matrices are Conv1D's: (in,
 * out), row-major. */
enum block_param {
    LN1_W,
    LN1_B,
    QKV_W, /* (D, 3D) */
    QKV_B,
    PROJ_W, /* (D, D) */
    PROJ_B,
    LN2_W,
    LN2_B,
    FC_W, /* (D, F) */
    FC_B,
    OUT_W, /* (F, D) */
    OUT_B,
    BLOCK_PARAMS
};

/* A table of rows that are converted when used: wte (V, D), wpe (positions, D). */
typedef struct table {
    const void *data;
    zds_dtype dtype; /* ZDS_F32, ZDS_BF16 or ZDS_F16 */
} table;

/* Where a gradient goes. NULL data: it is not wanted. */
typedef struct gradient {
    void *data;
    zds_dtype dtype; /* ZDS_F32, ZDS_BF16 or ZDS_F16 */
    bool accumulate; /* add to what is there */
} gradient;

typedef struct gpt2 gpt2;

/* For micro batches of `batch` rows of `length` positions. ZDS_ERR_MEMORY. */
zds_status gpt2_create(const gpt2_config *config, size_t batch, size_t length, workers crew,
                       const kernels *table_of_kernels, gpt2 **out, zds_error *error);
void gpt2_destroy(gpt2 *g);
/* Bytes of activations and of scratch. */
size_t gpt2_bytes(const gpt2 *g);
/* ZDS_ERR_MEMORY if a matrix product had no memory since gpt2_create; its results are wrong. */
zds_status gpt2_status(const gpt2 *g);

/* The next pass: `tokens` (batch, length + 1), each below V, kept until the pass is over. Random
 * numbers of dropout depend on (seed, step, first_sample + row of the batch, layer, element). */
typedef struct gpt2_batch {
    const uint32_t *tokens;
    uint64_t seed;
    uint32_t step, first_sample;
} gpt2_batch;
void gpt2_begin(gpt2 *g, const gpt2_batch *batch);

void gpt2_embed(gpt2 *g, table wte, table wpe);
void gpt2_block(gpt2 *g, size_t layer, const float *const *w);
/* The mean loss. */
double gpt2_head(gpt2 *g, const float *norm_w, const float *norm_b, table head);

void gpt2_head_backward(gpt2 *g, const float *norm_w, const float *norm_b, table head, double scale,
                        gradient d_norm_w, gradient d_norm_b, gradient d_head);
void gpt2_block_backward(gpt2 *g, size_t layer, const float *const *w, const gradient *dw);
void gpt2_embed_backward(gpt2 *g, gradient d_wte, gradient d_wpe);

/* Generation: positions [first, end) of one sequence whose earlier positions have been through the
 * layers since; no dropout. end <= length. */
void gpt2_begin_generation(gpt2 *g, const uint32_t *tokens, size_t first, size_t end);
/* The scores (V) of what follows the last position. */
void gpt2_scores(gpt2 *g, const float *norm_w, const float *norm_b, table head, float *scores);

#endif
