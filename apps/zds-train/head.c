/* The final norm, the logits and their loss. Logits exist for VOCAB tokens at a time and are
 * computed again in backward, so that memory does not grow with the vocabulary. */
#include <math.h>
#include <string.h>

#include "gpt2_parts.h"

typedef struct head_job {
    gpt2 *g;
    const float *norm_w, *norm_b;
    table head;
    size_t token, tokens; /* the piece of the vocabulary */
    float scale;
    float *sums; /* (tasks, 2, D) */
    const gradient *d_head;
} head_job;

static uint32_t target_at(const gpt2 *g, size_t row)
{
    return g->now.tokens[row + row / g->positions + 1];
}

/* Row losses of a task: the logarithm of the sum of exp grows piece by piece. */
static void head_rows(void *arg, size_t task)
{
    head_job *job = arg;
    gpt2 *g = job->g;
    span rows = rows_of(g, task);
    size_t d = g->d, piece = min_size(VOCAB, g->v);
    float *normed = slot_take(g), *logits = normed + rows.count * d;
    float *buffer = logits + rows.count * piece;
    g->k->norm_forward(rows.count, d, g->last + rows.first * d, job->norm_w, job->norm_b,
                       (float)g->c.layer_norm_epsilon, normed, g->stats + 2 * rows.first);
    float *lse = g->lse + rows.first, *loss = g->row_loss + rows.first;
    for (size_t r = 0; r < rows.count; r++)
        lse[r] = -INFINITY;
    for (size_t at = 0; at < g->v; at += piece) {
        size_t n = min_size(piece, g->v - at);
        const float *w = table_rows(g, job->head, at, n, buffer);
        product(g, 'N', 'T', rows.count, n, d, 1, normed, d, w, d, 0, logits, n);
        for (size_t r = 0; r < rows.count; r++) {
            const float *x = logits + r * n;
            float top = fmaxf(g->k->largest(n, x), lse[r]);
            lse[r] = top + logf(g->k->sum_exp(n, x, top) + expf(lse[r] - top));
            uint32_t target = target_at(g, rows.first + r);
            if (target >= at && target < at + n)
                loss[r] = x[target - at];
        }
    }
    for (size_t r = 0; r < rows.count; r++)
        loss[r] = lse[r] - loss[r];
    slot_give(g, normed);
}

double gpt2_head(gpt2 *g, const float *norm_w, const float *norm_b, table head)
{
    head_job job = {.g = g, .norm_w = norm_w, .norm_b = norm_b, .head = head};
    g->crew.run(g->crew.context, pieces(g->rows, ROWS), head_rows, &job);
    double sum = 0;
    for (size_t r = 0; r < g->rows; r++)
        sum += (double)g->row_loss[r];
    return sum / (double)g->rows;
}

/* The gradient of some logits, and what they add to the gradient of the norm's output. */
static void logits_backward(void *arg, size_t task)
{
    head_job *job = arg;
    gpt2 *g = job->g;
    span rows = rows_of(g, task);
    size_t d = g->d, n = job->tokens, at = rows.first * d;
    float *buffer = slot_take(g), *scores = g->scores + rows.first * n;
    if (job->token == 0)
        g->k->norm_apply(rows.count, d, g->last + at, job->norm_w, job->norm_b,
                         g->stats + 2 * rows.first, g->normed + at);
    const float *w = table_rows(g, job->head, job->token, n, buffer);
    product(g, 'N', 'T', rows.count, n, d, 1, g->normed + at, d, w, d, 0, scores, n);
    for (size_t r = 0; r < rows.count; r++) {
        g->k->scaled_exp(n, g->lse[rows.first + r], job->scale, scores + r * n);
        size_t target = target_at(g, rows.first + r);
        if (target >= job->token && target < job->token + n)
            scores[r * n + target - job->token] -= job->scale;
    }
    product(g, 'N', 'N', rows.count, d, n, 1, scores, n, w, d, job->token ? 1 : 0, g->mixed + at,
            d);
    slot_give(g, buffer);
}

/* The head's weights in pieces of 256 tokens. */
static void head_weights(void *arg, size_t task)
{
    head_job *job = arg;
    gpt2 *g = job->g;
    size_t d = g->d, at = task * 256, n = min_size(256, job->tokens - at);
    float *scratch = slot_take(g);
    gradient_product(g, job->d_head, (job->token + at) * d, d, 'T', n, d, g->rows, g->scores + at,
                     job->tokens, g->normed, d, scratch);
    slot_give(g, scratch);
}

static void norm_rows(void *arg, size_t task)
{
    head_job *job = arg;
    gpt2 *g = job->g;
    span rows = rows_of(g, task);
    size_t d = g->d, at = rows.first * d;
    g->k->norm_backward(rows.count, d, g->mixed + at, g->last + at, job->norm_w,
                        g->stats + 2 * rows.first, NULL, g->last + at, job->sums + task * 2 * d);
}

void gpt2_head_backward(gpt2 *g, const float *norm_w, const float *norm_b, table head, double scale,
                        gradient d_norm_w, gradient d_norm_b, gradient d_head)
{
    size_t tasks = pieces(g->rows, ROWS);
    head_job job = {.g = g, .norm_w = norm_w, .norm_b = norm_b, .head = head, .sums = g->sums};
    job.scale = (float)(scale / (double)g->rows);
    job.d_head = &d_head;
    for (; job.token < g->v; job.token += VOCAB) {
        job.tokens = min_size(VOCAB, g->v - job.token);
        g->crew.run(g->crew.context, tasks, logits_backward, &job);
        g->crew.run(g->crew.context, pieces(job.tokens, 256), head_weights, &job);
    }
    g->crew.run(g->crew.context, tasks, norm_rows, &job);
    gradient_sums(g, &d_norm_w, g->d, job.sums, 2 * g->d, tasks);
    gradient_sums(g, &d_norm_b, g->d, job.sums + g->d, 2 * g->d, tasks);
}

void gpt2_scores(gpt2 *g, const float *norm_w, const float *norm_b, table head, float *scores)
{
    float *normed = slot_take(g), *buffer = normed + g->d, stats[2];
    size_t row = g->first + g->rows - 1;
    g->k->norm_forward(1, g->d, g->last + row * g->d, norm_w, norm_b,
                       (float)g->c.layer_norm_epsilon, normed, stats);
    for (size_t at = 0; at < g->v; at += VOCAB) {
        size_t n = min_size(VOCAB, g->v - at);
        const float *w = table_rows(g, head, at, n, buffer);
        product(g, 'N', 'T', 1, n, g->d, 1, normed, g->d, w, g->d, 0, scores + at, n);
    }
    slot_give(g, normed);
}
