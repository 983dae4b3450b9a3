/* The training text as rows of tokens. */
#include "data.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fail.h"
#include "kernels.h"

zds_status dataset_open(const char *path, unsigned token_size, uint32_t vocabulary, uint64_t block,
                        bool shuffle, uint64_t seed, dataset *data, zds_error *error)
{
    *data = (dataset){.path = path,
                      .token_size = token_size,
                      .block = block,
                      .vocabulary = vocabulary,
                      .shuffle = shuffle,
                      .seed = seed};
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        zds_status status = fail(error, errno == ENOENT ? ZDS_ERR_NOT_FOUND : ZDS_ERR_IO, "%s: %s",
                                 path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return status;
    }
    zds_status status = ZDS_OK;
    data->size = (size_t)info.st_size;
    data->count = data->size / token_size;
    if (!S_ISREG(info.st_mode))
        status = fail(error, ZDS_ERR_FORMAT, "%s: is not a regular file", path);
    else if (data->size % token_size)
        status = fail(error, ZDS_ERR_FORMAT, "%s: its %zu bytes are not whole tokens of %u bytes",
                      path, data->size, token_size);
    else if (data->count < block + 1)
        status = fail(error, ZDS_ERR_FORMAT,
                      "%s: its %llu tokens are less than one block of %llu and the token after it; "
                      "use a longer text or a smaller --block_size",
                      path, (unsigned long long)data->count, (unsigned long long)block);
    if (!status) {
        void *bytes = mmap(NULL, data->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED)
            status = fail(error, ZDS_ERR_IO, "%s: cannot be mapped: %s", path, strerror(errno));
        else
            data->bytes = bytes;
        data->blocks = (data->count - 1) / block;
    }
    close(fd);
    return status;
}

void dataset_close(dataset *data)
{
    if (data->bytes)
        munmap((void *)(uintptr_t)data->bytes, data->size);
    data->bytes = NULL;
}

/* A permutation of [0, n) without a table: a Feistel network on the smallest square of a power of
 * two that holds n, walked until it lands inside (Black and Rogaway 2002, "cycle walking"). */
static uint64_t shuffled(uint64_t n, uint64_t i, uint64_t seed, uint64_t epoch)
{
    unsigned half = 1;
    while (half < 31 && n > (uint64_t)1 << (2 * half))
        half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        for (uint32_t round = 0; round < 6; round++) {
            uint32_t out[4];
            uint64_t left = i >> half, right = i & mask;
            random_stream stream = {{(uint32_t)seed, (uint32_t)(seed >> 32)},
                                    {0x73687566u, (uint32_t)epoch, round}};
            random_block(&stream, (uint32_t)right, out);
            i = right << half | (left ^ (out[0] & mask));
        }
    } while (i >= n);
    return i;
}

zds_status dataset_row(const dataset *data, uint64_t i, uint32_t *tokens, zds_error *error)
{
    uint64_t start;
    if (data->shuffle) {
        start =
            shuffled(data->blocks, i % data->blocks, data->seed, i / data->blocks) * data->block;
    } else {
        uint64_t starts = data->count - data->block - 1;
        start = starts ? i % starts * (data->block % starts) % starts : 0;
    }
    const unsigned char *at = data->bytes + start * data->token_size;
    for (uint64_t t = 0; t <= data->block; t++, at += data->token_size) {
        uint32_t token = at[0];
        for (unsigned b = 1; b < data->token_size; b++)
            token |= (uint32_t)at[b] << (8 * b);
        if (token >= data->vocabulary)
            return fail(error, ZDS_ERR_FORMAT,
                        "%s: token %llu is %u, but the model's vocabulary has %u", data->path,
                        (unsigned long long)(start + t), token, data->vocabulary);
        tokens[t] = token;
    }
    return ZDS_OK;
}
