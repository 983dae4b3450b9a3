/* The training text as rows of tokens. */
#ifndef ZDS_TRAIN_DATA_H
#define ZDS_TRAIN_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zds/status.h"

typedef struct dataset {
    const char *path;
    const unsigned char *bytes; /* mapped */
    size_t size;
    unsigned token_size;
    uint64_t count; /* tokens */
    uint64_t block;
    uint64_t blocks; /* that do not overlap: an epoch */
    uint32_t vocabulary;
    bool shuffle;
    uint64_t seed;
} dataset;

/* `token_size` 1, 2 or 4 (little endian). Rows have block + 1 tokens. Errors name the file. `path`
 * is kept. */
zds_status dataset_open(const char *path, unsigned token_size, uint32_t vocabulary, uint64_t block,
                        bool shuffle, uint64_t seed, dataset *data, zds_error *error);
void dataset_close(dataset *data);

/* Row i of the run. In order: it starts at token (i * block) mod (count - block - 1). Shuffled:
 * epoch i / blocks goes through all blocks in an order that depends on seed and epoch.
 * ZDS_ERR_FORMAT: a token that is not in the vocabulary. */
zds_status dataset_row(const dataset *data, uint64_t i, uint32_t *tokens, zds_error *error);

#endif
