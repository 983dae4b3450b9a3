/* Reading and writing safetensors files: a JSON header of names, dtypes, shapes and byte ranges,
 * then the bytes. Format: https://github.com/huggingface/safetensors ("Format", version 0.4).
 *
 * Everything in a file is checked before a tensor is handed out: ranges lie in the file, do not
 * overlap, leave no hole, and have the bytes that shape and dtype say; names are unique. Errors
 * name the file and the tensor. */
#ifndef APPS_COMMON_SAFETENSORS_H
#define APPS_COMMON_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zds/types.h"

#define SAFETENSORS_MAX_DIMS 8

typedef struct safetensors safetensors;

typedef struct safetensors_tensor {
    const char *name;
    const char *file;       /* in which it lies */
    const char *dtype_name; /* "F32" as the file says */
    zds_dtype dtype;        /* -1 where zds has no such type; the bytes are checked all the same */
    uint32_t ndim;
    int64_t shape[SAFETENSORS_MAX_DIMS];
    uint64_t count; /* elements */
    uint64_t bytes;
    const void *data; /* mapped, read only, perhaps not aligned to the element */
} safetensors_tensor;

/* Maps one file, or all files that a model.safetensors.index.json (a path that ends in ".json")
 * names; these lie beside it. ZDS_ERR_NOT_FOUND, ZDS_ERR_IO, ZDS_ERR_FORMAT, ZDS_ERR_MEMORY. */
zds_status safetensors_open(const char *path, safetensors **out, zds_error *error);
void safetensors_close(safetensors *file);

size_t safetensors_count(const safetensors *file);
/* In the order of their names, one behind the other. The pointer lives as long as the file. */
const safetensors_tensor *safetensors_at(const safetensors *file, size_t i);
/* NULL if there is none. */
const safetensors_tensor *safetensors_find(const safetensors *file, const char *name);

/* Elements [first, first + count) of an F32, F16 or BF16 tensor as fp32. ZDS_ERR_UNSUPPORTED for
 * other types, ZDS_ERR_INVALID past the end. */
zds_status safetensors_read(const safetensors_tensor *tensor, uint64_t first, uint64_t count,
                            float *out, zds_error *error);

/* === writing === */

typedef struct safetensors_writer safetensors_writer;

typedef struct safetensors_entry {
    const char *name;
    zds_dtype dtype; /* ZDS_F32, ZDS_F16 or ZDS_BF16 */
    uint32_t ndim;
    int64_t shape[SAFETENSORS_MAX_DIMS];
} safetensors_entry;

/* An entry of __metadata__. */
typedef struct safetensors_note {
    const char *key, *value; /* both NULL: the end */
} safetensors_note;

/* Starts a file of these tensors under a temporary name beside `path`. `notes`: what stands in
 * __metadata__ ("format": "pt" for transformers); NULL, or none: it has no such thing. Neither
 * entries nor notes are kept. */
zds_status safetensors_create(const char *path, const safetensors_entry *entries, size_t count,
                              const safetensors_note *notes, safetensors_writer **out,
                              zds_error *error);
/* The next `count` elements, in the order of the entries; a piece may not cross a tensor. They are
 * rounded to nearest even where the entry has 16 bits. */
zds_status safetensors_write(safetensors_writer *writer, const float *values, uint64_t count,
                             zds_error *error);
/* Syncs and renames: from now on `path` is the whole new file. ZDS_ERR_INVALID if elements are
 * missing. */
zds_status safetensors_commit(safetensors_writer *writer, zds_error *error);
/* Frees the writer and, without a commit, removes the temporary file. */
void safetensors_destroy(safetensors_writer *writer);

#endif
