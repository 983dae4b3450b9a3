/* Whether all ranks run the same training: digests of what they were given, held side by side. */
#include "same.h"

#include <stdlib.h>
#include <string.h>

#include "common/fail.h"

enum { MODEL, TEXT, COURSE, TOPICS };

static const char *const topics[TOPICS] = {
    [MODEL] = "config.json (heads, activation, dropout, ...)",
    [TEXT] = "--train_file",
    [COURSE] = "course of the run (--block_size, --data_order, --token_dtype, --generate)"};

#define FNV_START 0xcbf29ce484222325u

/* FNV-1a: differences are mistakes, not attacks. */
static uint64_t mix(uint64_t digest, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        digest = (digest ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u;
    return digest;
}

static uint64_t of_numbers(const double *numbers, size_t count)
{
    uint64_t digest = FNV_START;
    for (size_t i = 0; i < count; i++) {
        uint64_t bits;
        memcpy(&bits, &numbers[i], sizeof bits);
        digest = (digest ^ bits) * 0x100000001b3u;
    }
    return digest;
}

static uint64_t of_model(const gpt2_config *c)
{
    const double numbers[] = {(double)c->vocab_size,
                              (double)c->n_positions,
                              (double)c->n_embd,
                              (double)c->n_layer,
                              (double)c->n_head,
                              (double)c->n_inner,
                              (double)c->activation_function,
                              c->resid_pdrop,
                              c->embd_pdrop,
                              c->attn_pdrop,
                              c->layer_norm_epsilon,
                              c->initializer_range,
                              c->scale_attn_weights,
                              c->scale_attn_by_inverse_layer_idx,
                              c->tie_word_embeddings};
    return of_numbers(numbers, sizeof numbers / sizeof *numbers);
}

/* The length and both ends: the whole of a large text would take longer than the first step. */
static uint64_t of_text(const dataset *data)
{
    const double size = (double)data->size;
    size_t end = data->size < 4096 ? data->size : 4096;
    uint64_t digest = mix(of_numbers(&size, 1), data->bytes, end);
    return mix(digest, data->bytes + data->size - end, end);
}

zds_status same_on_all_ranks(zds_engine *engine, const gpt2_config *model, const dataset *data,
                             int64_t generate, zds_error *error)
{
    size_t ranks = (size_t)zds_world_size(engine), here = (size_t)zds_rank(engine);
    const double course[] = {(double)data->block, data->shuffle, data->token_size,
                             (double)generate};
    const uint64_t mine[TOPICS] = {[MODEL] = of_model(model),
                                   [TEXT] = of_text(data),
                                   [COURSE] = of_numbers(course, sizeof course / sizeof *course)};
    double *all = calloc(ranks * TOPICS, sizeof *all);
    if (!all)
        return fail(error, ZDS_ERR_MEMORY, "there is no memory to compare the ranks");
    for (int t = 0; t < TOPICS; t++) /* 53 bits are exact in a double; the others' sums add 0 */
        all[here * TOPICS + (size_t)t] = (double)(mine[t] >> 11);
    zds_status status = ZDS_OK;
    for (size_t i = 0; i < ranks * TOPICS && !status; i += 48) /* at most 64 at once */
        status =
            zds_sum_over_ranks(engine, all + i, ranks * TOPICS - i < 48 ? ranks * TOPICS - i : 48);
    if (status)
        fail(error, status, "%s", zds_engine_error(engine));
    for (size_t i = TOPICS; i < ranks * TOPICS && !status; i++)
        if (all[i] != all[i % TOPICS])
            status = fail(error, ZDS_ERR_DIVERGED,
                          "rank %zu and rank 0 have a different %s; give all ranks the same",
                          i / TOPICS, topics[i % TOPICS]);
    free(all);
    return status;
}
