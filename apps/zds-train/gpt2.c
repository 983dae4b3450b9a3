/* Memory of the model, the cutting of work, embeddings. */
#include "gpt2.h"

#include <stdlib.h>
#include <string.h>

#include "common/fail.h"
#include "gpt2_parts.h"
#include "matmul.h"
#include "pages.h"

/* === memory === */

/* Hands out pieces of one block; with a NULL base it only counts. */
typedef struct arena {
    float *base;
    size_t used; /* floats */
} arena;

static float *arena_take(arena *a, size_t count)
{
    float *at = a->base ? a->base + a->used : NULL;
    a->used += (count + 15) / 16 * 16;
    return at;
}

static size_t largest_of(const size_t *n, size_t count)
{
    size_t best = 0;
    for (size_t i = 0; i < count; i++)
        best = n[i] > best ? n[i] : best;
    return best;
}

/* Rows that lie a multiple of 512 floats apart fall into few sets of the cache, and walking down
 * their columns costs a product half its speed: leave a line between them. */
static size_t spread(size_t n)
{
    return n % 512 ? n : n + 16;
}

static size_t slot_floats(const gpt2 *g)
{
    size_t rows = min_size(ROWS, g->batch * g->length), m = g->batch * g->length;
    size_t d = g->d, hidden = min_size(HIDDEN, g->f), vocab = min_size(VOCAB, g->v);
    const size_t need[] = {
        rows * (2 * d + g->ld_f),            /* block forward: norm or out, mask, hidden */
        rows * 2 * d,                        /* block backward by rows */
        (m + g->ld_m) * hidden + d * hidden, /* block backward by columns of F */
        d * (d > COLUMNS ? d : COLUMNS),     /* weight gradients in 16 bits */
        rows * (d + vocab) + vocab * d,
        vocab * d, /* head */
        attention_scratch(g),
        (rows + 2) * d, /* embedding */
    };
    return (largest_of(need, sizeof need / sizeof *need) + 15) / 16 * 16;
}

static size_t sums_floats(const gpt2 *g)
{
    return pieces(g->batch * g->length, ROWS) * 6 * g->d + g->f + g->batch * 3 * g->d;
}

static void lay_out(gpt2 *g, arena *a)
{
    size_t m = g->batch * g->length, d = g->d;
    for (int64_t l = 0; l < g->c.n_layer; l++) {
        layer_memory *layer = &g->layers[l];
        layer->x = arena_take(a, m * d);
        layer->middle = arena_take(a, m * d);
        layer->qkv = arena_take(a, m * 3 * d);
        layer->mixed = arena_take(a, m * d);
        layer->hidden = arena_take(a, m * g->ld_f);
        layer->lse = arena_take(a, m * g->heads);
        layer->stats1 = arena_take(a, m * 2);
        layer->stats2 = arena_take(a, m * 2);
    }
    g->last = arena_take(a, m * d);
    g->normed = arena_take(a, g->ld_m * d);
    g->fc = g->ld_f > g->f ? arena_take(a, d * g->ld_f) : NULL;
    g->mixed = arena_take(a, m * d);
    g->masked = g->c.resid_pdrop > 0 ? arena_take(a, m * d) : NULL;
    g->scores = arena_take(a, m * min_size(VOCAB, g->v));
    g->stats = arena_take(a, m * 2);
    g->lse = arena_take(a, m);
    g->row_loss = arena_take(a, m);
    g->sums = arena_take(a, sums_floats(g));
    g->order = (uint32_t *)(void *)arena_take(a, m);
    g->slots = arena_take(a, g->crew.threads * g->slot_size);
}

zds_status gpt2_create(const gpt2_config *config, size_t batch, size_t length, workers crew,
                       const kernels *table_of_kernels, gpt2 **out, zds_error *error)
{
    gpt2 *g = calloc(1, sizeof *g);
    if (!g)
        return fail(error, ZDS_ERR_MEMORY, "there is no memory for the model");
    g->c = *config;
    g->c.tree = NULL; /* the caller's */
    g->k = table_of_kernels;
    g->crew = crew;
    g->batch = batch;
    g->length = length;
    g->d = (size_t)config->n_embd;
    g->f = (size_t)config->n_inner;
    g->v = (size_t)config->vocab_size;
    g->heads = (size_t)config->n_head;
    g->head_size = g->d / g->heads;
    g->ld_f = spread(g->f);
    g->ld_m = spread(batch * length);
    /* floats a row of M needs at most, in all layers and all threads together */
    double row = ((double)config->n_layer + (double)crew.threads) * (12.0 * (double)g->d + g->ld_f);
    if ((double)batch * (double)length * row > 0x1p60) {
        gpt2_destroy(g);
        return fail(error, ZDS_ERR_MEMORY, "a micro batch of %zu rows is beyond all memory", batch);
    }
    g->slot_size = slot_floats(g);
    g->layers = calloc((size_t)config->n_layer, sizeof *g->layers);
    g->slot_taken = calloc(crew.threads, sizeof *g->slot_taken);
    arena a = {0};
    if (g->layers)
        lay_out(g, &a);
    g->bytes = a.used * sizeof(float);
    if (g->layers && g->slot_taken)
        g->memory = pages_take(g->bytes);
    if (!g->memory) {
        size_t bytes = g->bytes;
        gpt2_destroy(g);
        return fail(error, ZDS_ERR_MEMORY,
                    "there is no memory for the activations (%zu MiB); make the micro batch or "
                    "--block_size smaller",
                    bytes >> 20);
    }
    a = (arena){.base = g->memory};
    lay_out(g, &a);
    *out = g;
    return ZDS_OK;
}

void gpt2_destroy(gpt2 *g)
{
    if (!g)
        return;
    pages_give(g->memory, g->bytes);
    free(g->slot_taken);
    free(g->layers);
    free(g);
}

size_t gpt2_bytes(const gpt2 *g)
{
    return g->bytes;
}

zds_status gpt2_status(const gpt2 *g)
{
    return atomic_load(&g->status);
}

float *slot_take(gpt2 *g)
{
    for (size_t i = 0;; i = (i + 1) % g->crew.threads)
        if (!atomic_exchange(&g->slot_taken[i], 1))
            return g->slots + i * g->slot_size;
}

void slot_give(gpt2 *g, float *slot)
{
    atomic_store(&g->slot_taken[(size_t)(slot - g->slots) / g->slot_size], 0);
}

/* === work === */

span rows_of(const gpt2 *g, size_t task)
{
    size_t at = task * ROWS;
    return (span){g->first + at, min_size(ROWS, g->rows - at)};
}

void product(gpt2 *g, char op_a, char op_b, size_t m, size_t n, size_t k, float alpha,
             const float *a, size_t ld_a, const float *b, size_t ld_b, float beta, float *c,
             size_t ld_c)
{
    if (!matmul(op_a, op_b, m, n, k, alpha, a, ld_a, b, ld_b, beta, c, ld_c))
        atomic_store(&g->status, ZDS_ERR_MEMORY);
}

void gradient_store(const gpt2 *g, const gradient *d, size_t at, size_t n, const float *values)
{
    if (!d->data)
        return;
    if (d->dtype != ZDS_F32)
        g->k->to_half(d->dtype, n, values, d->accumulate, (uint16_t *)d->data + at);
    else if (d->accumulate)
        g->k->add(n, values, (float *)d->data + at);
    else
        memcpy((float *)d->data + at, values, n * sizeof *values);
}

void gradient_product(gpt2 *g, const gradient *d, size_t at, size_t ld, char op_a, size_t m,
                      size_t n, size_t k, const float *a, size_t ld_a, const float *b, size_t ld_b,
                      float *scratch)
{
    if (!d->data)
        return;
    if (d->dtype == ZDS_F32) {
        product(g, op_a, 'N', m, n, k, 1, a, ld_a, b, ld_b, d->accumulate ? 1 : 0,
                (float *)d->data + at, ld);
        return;
    }
    product(g, op_a, 'N', m, n, k, 1, a, ld_a, b, ld_b, 0, scratch, n);
    for (size_t r = 0; r < m; r++)
        gradient_store(g, d, at + r * ld, n, scratch + r * n);
}

void gradient_sums(const gpt2 *g, const gradient *d, size_t n, float *sums, size_t ld, size_t count)
{
    for (size_t i = 1; i < count; i++)
        g->k->add(n, sums + i * ld, sums);
    gradient_store(g, d, 0, n, sums);
}

const float *table_rows(const gpt2 *g, table t, size_t first, size_t count, float *buffer)
{
    if (t.dtype == ZDS_F32)
        return (const float *)t.data + first * g->d;
    g->k->from_half(t.dtype, count * g->d, (const uint16_t *)t.data + first * g->d, buffer);
    return buffer;
}

random_stream dropout_stream(const gpt2 *g, size_t layer, int site, size_t sequence)
{
    return (random_stream){{(uint32_t)g->now.seed, (uint32_t)(g->now.seed >> 32)},
                           {(uint32_t)(layer * 3) + (uint32_t)site,
                            g->now.first_sample + (uint32_t)sequence, g->now.step}};
}

void dropout_rows(const gpt2 *g, size_t layer, int site, double rate, span rows, float *mask)
{
    for (size_t r = 0; r < rows.count; r++) {
        size_t row = rows.first + r;
        random_stream stream = dropout_stream(g, layer, site, row / g->positions);
        g->k->dropout_mask(&stream, row % g->positions * g->d, g->d, rate, mask + r * g->d);
    }
}

void gpt2_begin(gpt2 *g, const gpt2_batch *batch)
{
    g->now = *batch;
    g->training = true;
    g->sequences = g->batch;
    g->positions = g->length;
    g->first = 0;
    g->rows = g->batch * g->length;
}

void gpt2_begin_generation(gpt2 *g, const uint32_t *tokens, size_t first, size_t end)
{
    g->now = (gpt2_batch){.tokens = tokens};
    g->training = false;
    g->sequences = 1;
    g->positions = end;
    g->first = first;
    g->rows = end - first;
}

/* === embeddings === */

typedef struct embed_job {
    gpt2 *g;
    table wte, wpe;
    const gradient *d_wte, *d_wpe;
} embed_job;

/* The token at a row of M; each sequence has one token more than rows. */
static uint32_t token_at(const gpt2 *g, size_t row)
{
    return g->now.tokens[row + row / g->positions];
}

static void embed_rows(void *arg, size_t task)
{
    embed_job *job = arg;
    gpt2 *g = job->g;
    span rows = rows_of(g, task);
    float *x = g->layers[0].x + rows.first * g->d, *slot = slot_take(g);
    for (size_t r = 0; r < rows.count; r++) {
        size_t row = rows.first + r;
        const float *token = table_rows(g, job->wte, token_at(g, row), 1, slot);
        const float *place = table_rows(g, job->wpe, row % g->positions, 1, slot + g->d);
        memcpy(x + r * g->d, token, g->d * sizeof *x);
        g->k->add(g->d, place, x + r * g->d);
    }
    if (g->training && g->c.embd_pdrop > 0) {
        dropout_rows(g, 0, SITE_EMBED, g->c.embd_pdrop, rows, slot);
        g->k->multiply(rows.count * g->d, x, slot, x);
    }
    slot_give(g, slot);
}

void gpt2_embed(gpt2 *g, table wte, table wpe)
{
    embed_job job = {.g = g, .wte = wte, .wpe = wpe};
    g->crew.run(g->crew.context, pieces(g->rows, ROWS), embed_rows, &job);
}

static void embed_mask(void *arg, size_t task)
{
    gpt2 *g = ((embed_job *)arg)->g;
    span rows = rows_of(g, task);
    float *x = g->layers[0].x + rows.first * g->d, *slot = slot_take(g);
    dropout_rows(g, 0, SITE_EMBED, g->c.embd_pdrop, rows, slot);
    g->k->multiply(rows.count * g->d, x, slot, x);
    slot_give(g, slot);
}

/* Rows of equal tokens become neighbours, in the order of the rows. */
static bool sort_rows(gpt2 *g)
{
    uint32_t *next = calloc(g->v + 1, sizeof *next);
    if (!next)
        return false;
    for (size_t r = 0; r < g->rows; r++)
        next[token_at(g, r) + 1]++;
    for (size_t t = 0; t < g->v; t++)
        next[t + 1] += next[t];
    for (size_t r = 0; r < g->rows; r++)
        g->order[next[token_at(g, r)]++] = (uint32_t)r;
    free(next);
    return true;
}

/* Sums each token's rows, and each position's, for some columns. */
static void embed_columns(void *arg, size_t task)
{
    embed_job *job = arg;
    gpt2 *g = job->g;
    size_t column = task * TOKEN_COLUMNS, n = min_size(TOKEN_COLUMNS, g->d - column);
    const float *x = g->layers[0].x + column;
    float sum[TOKEN_COLUMNS];
    if (!job->d_wte->accumulate && job->d_wte->data) {
        size_t size = zds_dtype_size(job->d_wte->dtype);
        for (size_t t = 0; t < g->v; t++)
            memset((char *)job->d_wte->data + (t * g->d + column) * size, 0, n * size);
    }
    gradient into = *job->d_wte;
    into.accumulate = true;
    for (size_t i = 0; i < g->rows;) {
        uint32_t token = token_at(g, g->order[i]);
        memset(sum, 0, sizeof sum);
        for (; i < g->rows && token_at(g, g->order[i]) == token; i++)
            g->k->add(n, x + g->order[i] * g->d, sum);
        gradient_store(g, &into, token * g->d + column, n, sum);
    }
    for (size_t t = 0; t < (size_t)g->c.n_positions; t++) {
        memset(sum, 0, sizeof sum);
        for (size_t b = 0; b < g->sequences && t < g->positions; b++)
            g->k->add(n, x + (b * g->positions + t) * g->d, sum);
        gradient_store(g, job->d_wpe, t * g->d + column, n, sum);
    }
}

void gpt2_embed_backward(gpt2 *g, gradient d_wte, gradient d_wpe)
{
    embed_job job = {.g = g, .d_wte = &d_wte, .d_wpe = &d_wpe};
    if (g->c.embd_pdrop > 0)
        g->crew.run(g->crew.context, pieces(g->rows, ROWS), embed_mask, &job);
    if (!sort_rows(g)) {
        atomic_store(&g->status, ZDS_ERR_MEMORY);
        return;
    }
    g->crew.run(g->crew.context, pieces(g->d, TOKEN_COLUMNS), embed_columns, &job);
}
