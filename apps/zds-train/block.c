/* One transformer block, forward and backward. */
#include <string.h>

#include "gpt2_parts.h"

typedef struct block_job {
    gpt2 *g;
    size_t layer;
    const float *const *w;
    const gradient *dw;
    layer_memory *m;
    float *next;           /* (M, D): the block's output; in backward its gradient */
    const float *upstream; /* (M, D): gradient of what goes into the nearest residual sum */
    float *out_sums;       /* (tasks, D): columns of the gradients of both biases */
    float *proj_sums;
    float *norm1_sums, *norm2_sums; /* (tasks, 2, D) */
    float *fc_sums;                 /* (F) */
    float *qkv_sums;                /* (B, 3D) */
} block_job;

static block_job job_of(gpt2 *g, size_t layer, const float *const *w, const gradient *dw)
{
    block_job job = {.g = g, .layer = layer, .w = w, .dw = dw, .m = &g->layers[layer]};
    size_t tasks = pieces(g->rows, ROWS);
    job.next = layer + 1 < (size_t)g->c.n_layer ? g->layers[layer + 1].x : g->last;
    job.out_sums = g->sums;
    job.proj_sums = job.out_sums + tasks * g->d;
    job.norm1_sums = job.proj_sums + tasks * g->d;
    job.norm2_sums = job.norm1_sums + tasks * 2 * g->d;
    job.fc_sums = job.norm2_sums + tasks * 2 * g->d;
    job.qkv_sums = job.fc_sums + g->f;
    return job;
}

static void run(block_job *job, size_t tasks, void (*body)(void *arg, size_t i))
{
    job->g->crew.run(job->g->crew.context, tasks, body, job);
}

/* === forward === */

static void forward_qkv(void *arg, size_t task)
{
    block_job *job = arg;
    gpt2 *g = job->g;
    span rows = rows_of(g, task);
    size_t d = g->d, at = rows.first * d;
    float *normed = slot_take(g);
    g->k->norm_forward(rows.count, d, job->m->x + at, job->w[LN1_W], job->w[LN1_B],
                       (float)g->c.layer_norm_epsilon, normed, job->m->stats1 + 2 * rows.first);
    product(g, 'N', 'N', rows.count, 3 * d, d, 1, normed, d, job->w[QKV_W], 3 * d, 0,
            job->m->qkv + 3 * at, 3 * d);
    slot_give(g, normed);
}

/* A mask for these rows in `mask`, or NULL where there is no dropout. */
static const float *mask_of(const block_job *job, int site, span rows, float *mask)
{
    const gpt2 *g = job->g;
    if (!g->training || g->c.resid_pdrop == 0)
        return NULL;
    dropout_rows(g, job->layer, site, g->c.resid_pdrop, rows, mask);
    return mask;
}

static void forward_mlp(void *arg, size_t task)
{
    block_job *job = arg;
    gpt2 *g = job->g;
    span rows = rows_of(g, task);
    size_t d = g->d, f = g->f, n = rows.count, at = rows.first * d;
    float *out = slot_take(g), *normed = out; /* never both at a time */
    float *active = out + n * d, *mask = active + n * f;
    float *middle = job->m->middle + at, *hidden = job->m->hidden + rows.first * g->ld_f;
    const float *fc = g->fc ? g->fc : job->w[FC_W];
    product(g, 'N', 'N', n, d, d, 1, job->m->mixed + at, d, job->w[PROJ_W], d, 0, out, d);
    g->k->residual(n, d, job->m->x + at, out, job->w[PROJ_B], mask_of(job, SITE_PROJ, rows, mask),
                   middle);
    g->k->norm_forward(n, d, middle, job->w[LN2_W], job->w[LN2_B], (float)g->c.layer_norm_epsilon,
                       normed, job->m->stats2 + 2 * rows.first);
    product(g, 'N', 'N', n, f, d, 1, normed, d, fc, g->ld_f, 0, hidden, g->ld_f);
    g->k->activate(g->c.activation_function, n, f, hidden, g->ld_f, job->w[FC_B], active, f);
    product(g, 'N', 'N', n, d, f, 1, active, f, job->w[OUT_W], d, 0, out, d);
    g->k->residual(n, d, middle, out, job->w[OUT_B], mask_of(job, SITE_OUT, rows, mask),
                   job->next + at);
    slot_give(g, out);
}

/* Some rows of FC_W for g->fc. */
static void copy_fc(void *arg, size_t task)
{
    block_job *job = arg;
    gpt2 *g = job->g;
    for (size_t r = task * 64; r < min_size(task * 64 + 64, g->d); r++)
        memcpy(g->fc + r * g->ld_f, job->w[FC_W] + r * g->f, g->f * sizeof *g->fc);
}

void gpt2_block(gpt2 *g, size_t layer, const float *const *w)
{
    block_job job = job_of(g, layer, w, NULL);
    size_t tasks = pieces(g->rows, ROWS);
    if (g->fc)
        run(&job, pieces(g->d, 64), copy_fc);
    run(&job, tasks, forward_qkv);
    attention(g, layer, w[QKV_B]);
    run(&job, tasks, forward_mlp);
}

/* === backward === */

/* The gradient of these rows behind the dropout at `site`: a copy in g->masked if there is any. */
static const float *behind_dropout(const block_job *job, int site, span rows, const float *d_out)
{
    gpt2 *g = job->g;
    if (!g->masked)
        return d_out;
    float *masked = g->masked + rows.first * g->d;
    dropout_rows(g, job->layer, site, g->c.resid_pdrop, rows, masked);
    g->k->multiply(rows.count * g->d, d_out, masked, masked);
    return masked;
}

static void backward_out(void *arg, size_t task)
{
    block_job *job = arg;
    gpt2 *g = job->g;
    span rows = rows_of(g, task);
    size_t d = g->d, at = rows.first * d;
    float *normed = slot_take(g);
    const float *up = behind_dropout(job, SITE_OUT, rows, job->next + at);
    g->k->column_sums(rows.count, d, up, d, job->out_sums + task * d);
    g->k->norm_apply(rows.count, d, job->m->middle + at, job->w[LN2_W], job->w[LN2_B],
                     job->m->stats2 + 2 * rows.first, normed);
    g->k->transpose(rows.count, d, normed, d, g->normed + rows.first, g->ld_m);
    slot_give(g, normed);
}

/* Some columns of the hidden layer, all rows: the activation's gradient, and both weights'. */
static void backward_hidden(void *arg, size_t task)
{
    block_job *job = arg;
    gpt2 *g = job->g;
    size_t d = g->d, f = g->f, m = g->rows, column = task * HIDDEN;
    size_t n = min_size(HIDDEN, f - column);
    float *active = slot_take(g), *turned = active + m * n, *scratch = turned + g->ld_m * n;
    float *hidden = job->m->hidden + column;
    product(g, 'N', 'T', m, n, d, 1, job->upstream, d, job->w[OUT_W] + column * d, d, 0, active, n);
    g->k->activate_backward(g->c.activation_function, m, n, hidden, g->ld_f, job->w[FC_B] + column,
                            active, n, job->fc_sums + column);
    g->k->transpose(m, n, active, n, turned, g->ld_m);
    gradient_product(g, &job->dw[OUT_W], column * d, d, 'N', n, d, m, turned, g->ld_m,
                     job->upstream, d, scratch);
    gradient_product(g, &job->dw[FC_W], column, f, 'N', d, n, m, g->normed, g->ld_m, hidden,
                     g->ld_f, scratch);
    slot_give(g, active);
}

static void backward_middle(void *arg, size_t task)
{
    block_job *job = arg;
    gpt2 *g = job->g;
    span rows = rows_of(g, task);
    size_t d = g->d, f = g->f, n = rows.count, at = rows.first * d;
    float *d_normed = slot_take(g), *middle = job->m->middle + at;
    product(g, 'N', 'T', n, d, f, 1, job->m->hidden + rows.first * g->ld_f, g->ld_f,
            g->fc ? g->fc : job->w[FC_W], g->ld_f, 0, d_normed, d);
    g->k->norm_backward(n, d, d_normed, middle, job->w[LN2_W], job->m->stats2 + 2 * rows.first,
                        job->next + at, middle, job->norm2_sums + task * 2 * d);
    const float *up = behind_dropout(job, SITE_PROJ, rows, middle);
    g->k->column_sums(n, d, up, d, job->proj_sums + task * d);
    product(g, 'N', 'T', n, d, d, 1, up, d, job->w[PROJ_W], d, 0, g->mixed + at, d);
    slot_give(g, d_normed);
}

static void backward_qkv(void *arg, size_t task)
{
    block_job *job = arg;
    gpt2 *g = job->g;
    span rows = rows_of(g, task);
    size_t d = g->d, n = rows.count, at = rows.first * d;
    float *d_normed = slot_take(g), *x = job->m->x + at;
    const float *stats = job->m->stats1 + 2 * rows.first;
    g->k->norm_apply(n, d, x, job->w[LN1_W], job->w[LN1_B], stats, d_normed);
    g->k->transpose(n, d, d_normed, d, g->normed + rows.first, g->ld_m);
    product(g, 'N', 'T', n, d, 3 * d, 1, job->m->qkv + 3 * at, 3 * d, job->w[QKV_W], 3 * d, 0,
            d_normed, d);
    g->k->norm_backward(n, d, d_normed, x, job->w[LN1_W], stats, job->m->middle + at, x,
                        job->norm1_sums + task * 2 * d);
    slot_give(g, d_normed);
}

/* Task 0: the projection's weights; the others: columns of q, k, v's. */
static void backward_weights(void *arg, size_t task)
{
    block_job *job = arg;
    gpt2 *g = job->g;
    size_t d = g->d, column = task ? (task - 1) * COLUMNS : 0;
    float *scratch = slot_take(g);
    if (task == 0)
        gradient_product(g, &job->dw[PROJ_W], 0, d, 'T', d, d, g->rows, job->m->mixed, d,
                         job->upstream, d, scratch);
    else
        gradient_product(g, &job->dw[QKV_W], column, 3 * d, 'N', d,
                         min_size(COLUMNS, 3 * d - column), g->rows, g->normed, g->ld_m,
                         job->m->qkv + column, 3 * d, scratch);
    slot_give(g, scratch);
}

void gpt2_block_backward(gpt2 *g, size_t layer, const float *const *w, const gradient *dw)
{
    block_job job = job_of(g, layer, w, dw);
    size_t tasks = pieces(g->rows, ROWS), d = g->d;
    if (g->fc)
        run(&job, pieces(d, 64), copy_fc);
    job.upstream = g->masked ? g->masked : job.next;
    run(&job, tasks, backward_out);
    run(&job, pieces(g->f, HIDDEN), backward_hidden);
    job.upstream = g->masked ? g->masked : job.m->middle;
    run(&job, tasks, backward_middle);
    attention_backward(g, layer, w[QKV_B], job.qkv_sums);
    run(&job, tasks, backward_qkv);
    run(&job, 1 + pieces(3 * d, COLUMNS), backward_weights);
    gradient_sums(g, &dw[OUT_B], d, job.out_sums, d, tasks);
    gradient_sums(g, &dw[PROJ_B], d, job.proj_sums, d, tasks);
    gradient_sums(g, &dw[LN1_W], d, job.norm1_sums, 2 * d, tasks);
    gradient_sums(g, &dw[LN1_B], d, job.norm1_sums + d, 2 * d, tasks);
    gradient_sums(g, &dw[LN2_W], d, job.norm2_sums, 2 * d, tasks);
    gradient_sums(g, &dw[LN2_B], d, job.norm2_sums + d, 2 * d, tasks);
    gradient_sums(g, &dw[FC_B], g->f, job.fc_sums, g->f, 1);
    gradient_sums(g, &dw[QKV_B], 3 * d, job.qkv_sums, 3 * d, g->sequences);
}
