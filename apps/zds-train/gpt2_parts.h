/* What the files of the model share: its memory, and how work is cut into tasks.
 *
 * Tasks are cut by shapes alone, never by the number of threads, so that results do not depend on
 * it. */
#ifndef ZDS_TRAIN_GPT2_PARTS_H
#define ZDS_TRAIN_GPT2_PARTS_H

#include <stdatomic.h>

#include "gpt2.h"

enum {
    ROWS = 512,        /* rows of M in one task */
    HIDDEN = 768,      /* columns of F in one task of the backward pass */
    COLUMNS = 576,     /* columns of a weight's gradient in one task */
    VOCAB = 512,       /* rows of the vocabulary in one piece */
    QUERIES = 64,      /* rows of attention scores at a time */
    TOKEN_COLUMNS = 64 /* columns of the embedding's gradient in one task */
};

typedef struct layer_memory {
    float *x;               /* (M, D): input; in backward the gradient of the input */
    float *middle;          /* (M, D): after attention; in backward its gradient */
    float *qkv;             /* (M, 3D) before the bias; in backward its gradient */
    float *mixed;           /* (M, D): output of the heads */
    float *hidden;          /* (M, F) before bias and activation; in backward its gradient */
    float *lse;             /* (B, H, T): log of the sum of exp of attention scores */
    float *stats1, *stats2; /* (M, 2) of both norms */
} layer_memory;

struct gpt2 {
    gpt2_config c;
    const kernels *k;
    workers crew;
    size_t batch, length; /* of the memory */
    size_t d, f, v, heads, head_size;
    size_t ld_f, ld_m; /* distance of rows of F and of columns of M: see spread */
    gpt2_batch now;
    bool training;
    size_t first, rows; /* rows [first, first + rows) of M are computed */
    size_t sequences, positions;

    void *memory;
    size_t bytes;
    layer_memory *layers;
    float *last; /* (M, D): what comes out of the last block */
    /* Output of the norm that is being walked through: in the head (M, D), in a block its transpose
     * (D, M; ld_m), which makes weight gradients plain products. */
    float *normed;
    float *fc;     /* (D, F; ld_f): a copy of the block's FC_W; NULL where F needs no spreading */
    float *mixed;  /* (M, D): gradient of the heads' output */
    float *masked; /* (M, D): gradient behind a dropout; NULL if resid_pdrop is 0 */
    float *scores; /* (M, VOCAB): gradient of a piece of the logits */
    float *stats, *lse, *row_loss; /* (M, 2), (M), (M): the final norm, the logits */
    float *sums;                   /* column sums of tasks */
    uint32_t *order;               /* (M): rows sorted by token */
    float *slots;                  /* (threads, slot_size) */
    size_t slot_size;
    atomic_uint *slot_taken;
    atomic_int status;
};

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t pieces(size_t n, size_t piece)
{
    return (n + piece - 1) / piece;
}

/* Floats of a task's own; at most `threads` tasks run at a time. */
float *slot_take(gpt2 *g);
void slot_give(gpt2 *g, float *slot);

/* The rows of a task that gets ROWS of them. */
typedef struct span {
    size_t first, count;
} span;
span rows_of(const gpt2 *g, size_t task);

void product(gpt2 *g, char op_a, char op_b, size_t m, size_t n, size_t k, float alpha,
             const float *a, size_t ld_a, const float *b, size_t ld_b, float beta, float *c,
             size_t ld_c);
/* d (m, n; ld) from its element `at` on = op(A) B with op(A) (m, k), B (k, n); scratch (m, n). */
void gradient_product(gpt2 *g, const gradient *d, size_t at, size_t ld, char op_a, size_t m,
                      size_t n, size_t k, const float *a, size_t ld_a, const float *b, size_t ld_b,
                      float *scratch);
void gradient_store(const gpt2 *g, const gradient *d, size_t at, size_t n, const float *values);
/* Adds `count` rows of `n` sums, the first to the last, and stores the result. */
void gradient_sums(const gpt2 *g, const gradient *d, size_t n, float *sums, size_t ld,
                   size_t count);

enum { SITE_EMBED = 0, SITE_ATTENTION = 1, SITE_PROJ = 2, SITE_OUT = 3 };
random_stream dropout_stream(const gpt2 *g, size_t layer, int site, size_t sequence);
/* Masks (rows, D) for rows of M; only where the rate is not 0. */
void dropout_rows(const gpt2 *g, size_t layer, int site, double rate, span rows, float *mask);

/* Scores, softmax and their product with v for all heads: g->layers[layer].qkv -> mixed, lse. */
void attention(gpt2 *g, size_t layer, const float *bias);
/* From g->mixed: qkv becomes its gradient; sums (B, 3D): its column sums. */
void attention_backward(gpt2 *g, size_t layer, const float *bias, float *sums);
size_t attention_scratch(const gpt2 *g);

/* Row of a table in fp32: the table's own, or converted into `buffer`. */
const float *table_rows(const gpt2 *g, table t, size_t first, size_t count, float *buffer);

#endif
