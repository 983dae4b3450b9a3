/* Causal attention, one task a sequence and head. Scores exist for QUERIES rows at a time; backward
 * computes them again from q, k and the logarithm of the softmax's sum (Dao et al. 2022, algorithm
 * 2 and 4, with whole rows of scores instead of tiles). */
#include <math.h>
#include <string.h>

#include "gpt2_parts.h"

typedef struct attention_job {
    gpt2 *g;
    size_t layer;
    const float *bias;
    float *sums;
    float scale;
} attention_job;

/* Scratch of a task, in floats. */
typedef struct attention_slot {
    float *q, *k, *v;                /* (T, head_size), q scaled */
    float *scores, *d_scores, *mask; /* (QUERIES, T) */
    float *d_out, *d_q, *d_k, *d_v;  /* (T, head_size) */
    float *dropped;                  /* (QUERIES, T): scores after dropout */
} attention_slot;

size_t attention_scratch(const gpt2 *g)
{
    return 7 * g->length * g->head_size + 4 * QUERIES * g->length;
}

static attention_slot divide(const gpt2 *g, float *slot)
{
    size_t part = g->length * g->head_size, square = QUERIES * g->length;
    attention_slot s = {.q = slot, .k = slot + part, .v = slot + 2 * part};
    s.d_out = slot + 3 * part;
    s.d_q = slot + 4 * part;
    s.d_k = slot + 5 * part;
    s.d_v = slot + 6 * part;
    s.scores = slot + 7 * part;
    s.d_scores = s.scores + square;
    s.dropped = s.d_scores + square;
    s.mask = s.dropped + square;
    return s;
}

static float scaling(const gpt2 *g, size_t layer)
{
    double scale = g->c.scale_attn_weights ? 1 / sqrt((double)g->head_size) : 1;
    return (float)(g->c.scale_attn_by_inverse_layer_idx ? scale / (double)(layer + 1) : scale);
}

/* q, k and v of one head, with their biases, q times the scale. */
static void gather(const attention_job *job, size_t sequence, size_t head, attention_slot *s)
{
    gpt2 *g = job->g;
    size_t n = g->head_size, t = g->positions, ld = 3 * g->d, at = head * n;
    const float *qkv = g->layers[job->layer].qkv + sequence * t * ld + at;
    g->k->scale_bias(t, n, qkv, ld, job->bias + at, job->scale, s->q, n);
    g->k->scale_bias(t, n, qkv + g->d, ld, job->bias + g->d + at, 1, s->k, n);
    g->k->scale_bias(t, n, qkv + 2 * g->d, ld, job->bias + 2 * g->d + at, 1, s->v, n);
}

/* Masks (count, query + count) of attention weights in rows [query, query + count). */
static void draw_mask(const attention_job *job, size_t sequence, size_t head, size_t query,
                      size_t count, float *mask)
{
    gpt2 *g = job->g;
    size_t t = g->positions, keys = query + count;
    random_stream stream = dropout_stream(g, job->layer, SITE_ATTENTION, sequence);
    for (size_t r = 0; r < count; r++)
        g->k->dropout_mask(&stream, ((uint64_t)head * t + query + r) * t, keys, g->c.attn_pdrop,
                           mask + r * keys);
}

static void attend(void *arg, size_t task)
{
    attention_job *job = arg;
    gpt2 *g = job->g;
    size_t sequence = task / g->heads, head = task % g->heads, n = g->head_size, t = g->positions;
    float *slot = slot_take(g), *lse = g->layers[job->layer].lse + task * t;
    attention_slot s = divide(g, slot);
    gather(job, sequence, head, &s);
    for (size_t i = g->first; i < t; i += QUERIES) {
        size_t count = min_size(QUERIES, t - i), keys = i + count;
        product(g, 'N', 'T', count, keys, n, 1, s.q + i * n, n, s.k, n, 0, s.scores, keys);
        for (size_t r = 0; r < count; r++)
            lse[i + r] = g->k->softmax(i + r + 1, keys, s.scores + r * keys);
        if (g->training && g->c.attn_pdrop > 0) {
            draw_mask(job, sequence, head, i, count, s.mask);
            g->k->multiply(count * keys, s.scores, s.mask, s.scores);
        }
        product(g, 'N', 'N', count, n, keys, 1, s.scores, keys, s.v, n, 0,
                g->layers[job->layer].mixed + (sequence * t + i) * g->d + head * n, g->d);
    }
    slot_give(g, slot);
}

void attention(gpt2 *g, size_t layer, const float *bias)
{
    attention_job job = {g, layer, bias, NULL, scaling(g, layer)};
    g->crew.run(g->crew.context, g->sequences * g->heads, attend, &job);
}

/* Rows [i, i + count) of the scores and what follows from them. */
static void attend_backward_rows(attention_job *job, size_t sequence, size_t head, size_t i,
                                 size_t count, attention_slot *s)
{
    gpt2 *g = job->g;
    size_t n = g->head_size, t = g->positions, keys = i + count;
    const float *lse = g->layers[job->layer].lse + (sequence * g->heads + head) * t;
    const float *weights = s->scores;
    bool drops = g->c.attn_pdrop > 0;
    product(g, 'N', 'T', count, keys, n, 1, s->q + i * n, n, s->k, n, 0, s->scores, keys);
    for (size_t r = 0; r < count; r++)
        g->k->exponentials(i + r + 1, keys, lse[i + r], s->scores + r * keys);
    if (drops) {
        draw_mask(job, sequence, head, i, count, s->mask);
        g->k->multiply(count * keys, s->scores, s->mask, s->dropped);
        weights = s->dropped;
    }
    product(g, 'T', 'N', keys, n, count, 1, weights, keys, s->d_out + i * n, n, 1, s->d_v, n);
    product(g, 'N', 'T', count, keys, n, 1, s->d_out + i * n, n, s->v, n, 0, s->d_scores, keys);
    if (drops)
        g->k->multiply(count * keys, s->d_scores, s->mask, s->d_scores);
    for (size_t r = 0; r < count; r++)
        g->k->softmax_backward(keys, s->scores + r * keys, s->d_scores + r * keys,
                               s->d_scores + r * keys);
    product(g, 'T', 'N', keys, n, count, 1, s->d_scores, keys, s->q + i * n, n, 1, s->d_k, n);
    product(g, 'N', 'N', count, n, keys, job->scale, s->d_scores, keys, s->k, n, 0, s->d_q + i * n,
            n);
}

static void attend_backward(void *arg, size_t task)
{
    attention_job *job = arg;
    gpt2 *g = job->g;
    size_t sequence = task / g->heads, head = task % g->heads, n = g->head_size, t = g->positions;
    float *slot = slot_take(g), *sums = job->sums + sequence * 3 * g->d + head * n;
    float *d_qkv = g->layers[job->layer].qkv + sequence * t * 3 * g->d + head * n;
    attention_slot s = divide(g, slot);
    gather(job, sequence, head, &s);
    g->k->scale_bias(t, n, g->mixed + sequence * t * g->d + head * n, g->d, NULL, 1, s.d_out, n);
    memset(s.d_k, 0, t * n * sizeof *s.d_k);
    memset(s.d_v, 0, t * n * sizeof *s.d_v);
    for (size_t i = 0; i < t; i += QUERIES)
        attend_backward_rows(job, sequence, head, i, min_size(QUERIES, t - i), &s);
    const float *const parts[3] = {s.d_q, s.d_k, s.d_v};
    for (size_t p = 0; p < 3; p++) {
        g->k->scale_bias(t, n, parts[p], n, NULL, 1, d_qkv + p * g->d, 3 * g->d);
        g->k->column_sums(t, n, parts[p], n, sums + p * g->d);
    }
    slot_give(g, slot);
}

void attention_backward(gpt2 *g, size_t layer, const float *bias, float *sums)
{
    attention_job job = {g, layer, bias, sums, scaling(g, layer)};
    g->crew.run(g->crew.context, g->sequences * g->heads, attend_backward, &job);
}
