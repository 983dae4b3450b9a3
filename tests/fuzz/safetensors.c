/* libFuzzer: any bytes as a safetensors file, or, where the first byte is odd, as an index. What is
 * accepted must be readable to its last byte. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look(const safetensors *file)
{
    unsigned sum = 0;
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const safetensors_tensor *t = safetensors_at(file, i);
        const unsigned char *bytes = t->data;
        float value;
        if (safetensors_find(file, t->name) != t)
            abort();
        for (uint64_t k = 0; k < t->bytes; k++)
            sum += bytes[k];
        if (t->count)
            safetensors_read(t, t->count - 1, 1, &value, NULL);
    }
    *(volatile unsigned *)&sum = sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char path[64];
    if (!path[0])
        snprintf(path, sizeof path, "/tmp/zds-fuzz-%d", (int)getpid());
    if (size < 1)
        return 0;
    char name[80];
    snprintf(name, sizeof name, "%s%s", path, data[0] & 1 ? ".json" : ".safetensors");
    FILE *out = fopen(name, "wb");
    if (!out || fwrite(data + 1, 1, size - 1, out) != size - 1 || fclose(out) != 0)
        abort();
    safetensors *file = NULL;
    zds_error error = ZDS_ERROR_INIT;
    if (safetensors_open(name, &file, &error) == ZDS_OK) {
        look(file);
        safetensors_close(file);
    } else if (!error.text) {
        abort();
    }
    zds_error_clear(&error);
    unlink(name);
    return 0;
}
