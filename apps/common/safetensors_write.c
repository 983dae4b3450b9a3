/* Writing safetensors: header first, elements as they come, then sync and rename. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fail.h"
#include "common/files.h"
#include "common/floats.h"
#include "common/safetensors.h"

typedef struct pending {
    zds_dtype dtype;
    uint64_t left; /* elements still to come */
} pending;

struct safetensors_writer {
    char *path, *target, *temporary; /* target: path, links followed */
    int fd;
    pending *tensors;
    size_t count, next;
    bool committed;
};

static const char *dtype_name(zds_dtype dtype)
{
    return dtype == ZDS_F32 ? "F32" : dtype == ZDS_F16 ? "F16" : dtype == ZDS_BF16 ? "BF16" : NULL;
}

static zds_status write_all(safetensors_writer *writer, const void *bytes, size_t size,
                            zds_error *error)
{
    for (const char *at = bytes; size;) {
        ssize_t n = write(writer->fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail(error, ZDS_ERR_IO, "%s: cannot be written: %s", writer->temporary,
                        strerror(n < 0 ? errno : ENOSPC));
        at += n;
        size -= (size_t)n;
    }
    return ZDS_OK;
}

/* The header as JSON text; NULL if memory ends. */
static char *header_text(const safetensors_entry *entries, size_t count,
                         const safetensors_note *notes)
{
    cJSON *root = cJSON_CreateObject();
    char *text = NULL;
    uint64_t at = 0;
    cJSON *metadata = notes && notes->key ? cJSON_AddObjectToObject(root, "__metadata__") : NULL;
    for (; notes && notes->key; notes++)
        if (!cJSON_AddStringToObject(metadata, notes->key, notes->value))
            goto out;
    for (size_t i = 0; i < count; i++) {
        cJSON *tensor = cJSON_CreateObject();
        if (!cJSON_AddItemToObject(root, entries[i].name, tensor)) {
            cJSON_Delete(tensor);
            goto out;
        }
        cJSON_AddStringToObject(tensor, "dtype", dtype_name(entries[i].dtype));
        cJSON *shape = cJSON_AddArrayToObject(tensor, "shape");
        uint64_t bytes = zds_dtype_size(entries[i].dtype);
        for (uint32_t d = 0; d < entries[i].ndim; d++) {
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)entries[i].shape[d]));
            bytes *= (uint64_t)entries[i].shape[d];
        }
        cJSON *offsets = cJSON_AddArrayToObject(tensor, "data_offsets");
        cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)at));
        at += bytes;
        cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)at));
        if (cJSON_GetArraySize(offsets) != 2 || cJSON_GetArraySize(shape) != (int)entries[i].ndim)
            goto out;
    }
    text = cJSON_PrintUnformatted(root);
out:
    cJSON_Delete(root);
    return text;
}

static zds_status write_header(safetensors_writer *writer, const safetensors_entry *entries,
                               size_t count, const safetensors_note *notes, zds_error *error)
{
    char *text = header_text(entries, count, notes);
    if (!text)
        return fail(error, ZDS_ERR_MEMORY, "%s: there is no memory for its header", writer->path);
    size_t length = strlen(text), padded = (length + 7) / 8 * 8; /* so that the data is aligned */
    unsigned char size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    zds_status status = write_all(writer, size, sizeof size, error);
    if (!status)
        status = write_all(writer, text, length, error);
    if (!status)
        status = write_all(writer, "       ", padded - length, error);
    cJSON_free(text);
    return status;
}

zds_status safetensors_create(const char *path, const safetensors_entry *entries, size_t count,
                              const safetensors_note *notes, safetensors_writer **out,
                              zds_error *error)
{
    for (size_t i = 0; i < count; i++)
        if (!dtype_name(entries[i].dtype) || entries[i].ndim > SAFETENSORS_MAX_DIMS)
            return fail(error, ZDS_ERR_INVALID, "%s: tensor %s: cannot be written in this type",
                        path, entries[i].name);
    zds_status status;
    safetensors_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", path);
    writer->fd = -1;
    writer->path = strdup(path);
    writer->tensors = calloc(count ? count : 1, sizeof *writer->tensors);
    status = file_target(path, &writer->target, error);
    if (status)
        goto failed;
    char *temporary = NULL;
    if (!writer->path || !writer->tensors ||
        asprintf(&temporary, "%s.XXXXXX", writer->target) < 0) {
        status = fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", path);
        goto failed;
    }
    writer->count = count;
    for (size_t i = 0; i < count; i++) {
        writer->tensors[i] = (pending){entries[i].dtype, 1};
        for (uint32_t d = 0; d < entries[i].ndim; d++)
            writer->tensors[i].left *= (uint64_t)entries[i].shape[d];
    }
    writer->fd = mkostemp(temporary, O_CLOEXEC);
    if (writer->fd < 0) {
        status = fail(error, ZDS_ERR_IO, "%s: cannot be created: %s", path, strerror(errno));
        free(temporary);
        goto failed;
    }
    writer->temporary = temporary;
    status = write_header(writer, entries, count, notes, error);
    if (!status) {
        *out = writer;
        return ZDS_OK;
    }
failed:
    safetensors_destroy(writer);
    return status;
}

zds_status safetensors_write(safetensors_writer *writer, const float *values, uint64_t count,
                             zds_error *error)
{
    while (writer->next < writer->count && writer->tensors[writer->next].left == 0)
        writer->next++;
    if (count == 0)
        return ZDS_OK;
    if (writer->next == writer->count || count > writer->tensors[writer->next].left)
        return fail(error, ZDS_ERR_INVALID, "%s: more elements than were announced", writer->path);
    pending *tensor = &writer->tensors[writer->next];
    tensor->left -= count;
    if (tensor->dtype == ZDS_F32)
        return write_all(writer, values, count * 4, error);
    uint16_t half[4096];
    for (uint64_t done = 0; done < count;) {
        size_t n = count - done < 4096 ? (size_t)(count - done) : 4096;
        for (size_t i = 0; i < n; i++)
            half[i] = tensor->dtype == ZDS_BF16 ? bf16_from_float(values[done + i])
                                                : f16_from_float(values[done + i]);
        zds_status status = write_all(writer, half, n * 2, error);
        if (status)
            return status;
        done += n;
    }
    return ZDS_OK;
}

/* Makes the renaming itself durable. */
static void sync_folder(const char *path)
{
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(copy);
}

zds_status safetensors_commit(safetensors_writer *writer, zds_error *error)
{
    for (size_t i = writer->next; i < writer->count; i++)
        if (writer->tensors[i].left)
            return fail(error, ZDS_ERR_INVALID, "%s: elements of tensor %zu were not written",
                        writer->path, i);
    mode_t mask = umask(0);
    umask(mask);
    int synced = fchmod(writer->fd, 0666 & ~mask) == 0 && fsync(writer->fd) == 0;
    if (!synced || rename(writer->temporary, writer->target) != 0)
        return fail(error, ZDS_ERR_IO, "%s: cannot be %s: %s", writer->path,
                    synced ? "replaced" : "synced", strerror(errno));
    writer->committed = true;
    sync_folder(writer->target);
    return ZDS_OK;
}

void safetensors_destroy(safetensors_writer *writer)
{
    if (!writer)
        return;
    if (writer->fd >= 0)
        close(writer->fd);
    if (writer->temporary && !writer->committed)
        unlink(writer->temporary);
    free(writer->temporary);
    free(writer->tensors);
    free(writer->path);
    free(writer->target);
    free(writer);
}
