/* A sample of what the model has learnt. */
#include "generate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fail.h"

enum { PROMPT = 32 };
#define TEMPERATURE 0.8

/* One token from softmax(scores / TEMPERATURE); the same on every rank. */
static uint32_t draw(const float *scores, uint32_t n, uint64_t seed, uint32_t position)
{
    uint32_t number[4];
    random_stream stream = {{(uint32_t)seed, (uint32_t)(seed >> 32)}, {0x67656e65u, 0, 0}};
    random_block(&stream, position, number);
    double top = -INFINITY, sum = 0, at = 0;
    for (uint32_t i = 0; i < n; i++)
        top = fmax(top, scores[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp((scores[i] - top) / TEMPERATURE);
    double goal = ((double)number[0] + 0.5) * 0x1p-32 * sum;
    for (uint32_t i = 0; i + 1 < n; i++) {
        at += exp((scores[i] - top) / TEMPERATURE);
        if (at > goal)
            return i;
    }
    return n - 1;
}

/* Bytes of a well-formed UTF-8 character of two to four bytes at `at`, else 0. */
static size_t utf8_length(const uint32_t *at, size_t left)
{
    size_t n = at[0] >= 0xf0 && at[0] < 0xf5   ? 4
               : at[0] >= 0xe0 && at[0] < 0xf0 ? 3
               : at[0] >= 0xc2 && at[0] < 0xe0 ? 2
                                               : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if (at[i] < 0x80 || at[i] > 0xbf)
            return 0;
    return n;
}

/* Text without what could steer a terminal. */
static void print_text(const uint32_t *tokens, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t n = utf8_length(tokens + i, count - i);
        bool plain =
            (tokens[i] >= 0x20 && tokens[i] < 0x7f) || tokens[i] == '\n' || tokens[i] == '\t';
        if (plain)
            putchar((int)tokens[i]);
        else if (n && !(n == 2 && tokens[i] == 0xc2 && tokens[i + 1] < 0xa0)) /* C1 controls */
            for (size_t k = 0; k < n; k++)
                putchar((int)tokens[i + k]);
        else
            fputs("\xef\xbf\xbd", stdout); /* the replacement character */
        i += n ? n - 1 : 0;
    }
    putchar('\n');
}

static void print_ids(const uint32_t *tokens, size_t count)
{
    for (size_t i = 0; i < count; i++)
        printf("%u%s", tokens[i], i + 1 < count ? " " : "\n");
}

zds_status generate(bridge *b, int64_t count, uint32_t vocabulary, bool bytes, zds_error *error)
{
    size_t limit = (size_t)b->length, end = limit / 2 < PROMPT ? limit / 2 : PROMPT, done = 0;
    end = end ? end : 1;
    size_t total = end + (size_t)count;
    uint32_t *all = malloc((total + limit + 1) * sizeof *all);
    float *scores = malloc(vocabulary * sizeof *scores);
    zds_status status = ZDS_OK;
    if (!all || !scores) {
        status = fail(error, ZDS_ERR_MEMORY, "there is no memory to generate");
        goto out;
    }
    dataset start = *b->data;
    start.shuffle = false;
    status = dataset_row(&start, 0, all, error);
    /* `window`: the first token that the model sees; it moves by half a block when full */
    for (size_t window = 0; end < total && !status; end++) {
        if (end - window > limit) {
            window = end - (limit + 1) / 2;
            done = 0;
        }
        status = bridge_scores(b, all + window, done, end - window, scores);
        if (status) {
            fail(error, status, "%s", b->error.text ? b->error.text : zds_engine_error(b->engine));
            break;
        }
        done = end - window;
        all[end] = draw(scores, vocabulary, b->seed, (uint32_t)end);
    }
    if (!status && zds_rank(b->engine) == 0) {
        if (bytes)
            print_text(all, total);
        else
            print_ids(all, total);
    }
out:
    free(scores);
    free(all);
    return status;
}
