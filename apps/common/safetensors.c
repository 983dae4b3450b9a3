/* Reading safetensors: map, check every claim of the header, hand out views. */
#include "common/safetensors.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fail.h"
#include "common/floats.h"

#define MAX_HEADER (100u << 20) /* the reference's own limit */

typedef struct part {
    char *path;
    cJSON *header;
    unsigned char *bytes; /* the whole file */
    uint64_t size;
    const unsigned char *data; /* behind the header */
    uint64_t data_size;
} part;

struct safetensors {
    part *parts;
    size_t part_count;
    safetensors_tensor *tensors; /* by name */
    size_t count;
};

/* zds_dtype -1: known, with a size, but not computed with. */
static const struct {
    const char *name;
    zds_dtype dtype;
    unsigned size;
} dtypes[] = {{"F32", ZDS_F32, 4}, {"F16", ZDS_F16, 2}, {"BF16", ZDS_BF16, 2}, {"F64", ZDS_F64, 8},
              {"I8", ZDS_I8, 1},   {"U8", ZDS_U8, 1},   {"I32", ZDS_I32, 4},   {"I64", ZDS_I64, 8},
              {"BOOL", -1, 1},     {"I16", -1, 2},      {"U16", -1, 2},        {"U32", -1, 4},
              {"U64", -1, 8},      {"F8_E5M2", -1, 1},  {"F8_E4M3", -1, 1},    {"F8_E8M0", -1, 1},
              {"C64", -1, 8}};

/* A JSON number that is an integer from 0 to 2^53, in which doubles are exact. */
static bool whole_number(const cJSON *item, uint64_t *value)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > 0x1p53)
        return false;
    *value = (uint64_t)item->valuedouble;
    return (double)*value == item->valuedouble;
}

static zds_status map_file(part *p, zds_error *error)
{
    int fd = open(p->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(error, errno == ENOENT ? ZDS_ERR_NOT_FOUND : ZDS_ERR_IO, "%s: %s", p->path,
                    strerror(errno));
    struct stat info;
    zds_status status = ZDS_OK;
    if (fstat(fd, &info) != 0) {
        status = fail(error, ZDS_ERR_IO, "%s: %s", p->path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        status = fail(error, ZDS_ERR_FORMAT, "%s: is not a regular file", p->path);
    } else if (info.st_size == 0) {
        status = fail(error, ZDS_ERR_FORMAT, "%s: is empty", p->path);
    } else {
        p->size = (uint64_t)info.st_size;
        void *bytes = mmap(NULL, p->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED)
            status = fail(error, ZDS_ERR_IO, "%s: cannot be mapped: %s", p->path, strerror(errno));
        else
            p->bytes = bytes;
    }
    close(fd);
    return status;
}

static zds_status read_header(part *p, zds_error *error)
{
    uint64_t length = 0;
    if (p->size < 8)
        return fail(error, ZDS_ERR_FORMAT,
                    "%s: is truncated: a safetensors file has at least 8 bytes, this one has %llu",
                    p->path, (unsigned long long)p->size);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | p->bytes[i];
    if (length > MAX_HEADER)
        return fail(
            error, ZDS_ERR_FORMAT,
            "%s: says that its header has %llu bytes; more than %u are not accepted (is it a "
            "safetensors file?)",
            p->path, (unsigned long long)length, MAX_HEADER);
    if (length > p->size - 8)
        return fail(error, ZDS_ERR_FORMAT,
                    "%s: is truncated: its header should have %llu bytes, the file ends after %llu",
                    p->path, (unsigned long long)length, (unsigned long long)(p->size - 8));
    const char *text = (const char *)p->bytes + 8;
    if (length == 0 || text[0] != '{')
        return fail(error, ZDS_ERR_FORMAT, "%s: its header is not a JSON object", p->path);
    const char *end = NULL;
    p->header = cJSON_ParseWithLengthOpts(text, length, &end, false);
    bool clean = p->header && cJSON_IsObject(p->header);
    for (const char *c = end; clean && c < text + length; c++)
        clean = *c == ' ' || *c == '\n' || *c == '\r' || *c == '\t';
    if (!clean)
        return fail(error, ZDS_ERR_FORMAT, "%s: its header is not valid JSON (near byte %lld)",
                    p->path, (long long)(end ? end - text : 0));
    p->data = p->bytes + 8 + length;
    p->data_size = p->size - 8 - length;
    return ZDS_OK;
}

static zds_status wrong(const part *p, const char *tensor, zds_error *error, const char *what)
{
    return fail(error, ZDS_ERR_FORMAT, "%s: tensor %s: %s", p->path, tensor, what);
}

static zds_status read_shape(const part *p, const cJSON *shape, safetensors_tensor *t,
                             zds_error *error)
{
    if (!cJSON_IsArray(shape))
        return wrong(p, t->name, error, "has no shape");
    t->count = 1;
    for (const cJSON *extent = shape->child; extent; extent = extent->next) {
        uint64_t value;
        if (t->ndim == SAFETENSORS_MAX_DIMS)
            return wrong(p, t->name, error, "has more than 8 dimensions");
        if (!whole_number(extent, &value))
            return wrong(p, t->name, error, "its shape is not a list of non-negative integers");
        t->shape[t->ndim++] = (int64_t)value;
        if (__builtin_mul_overflow(t->count, value, &t->count))
            return wrong(p, t->name, error, "its shape has too many elements");
    }
    return ZDS_OK;
}

/* Fills `t` from the header's entry; sizes are checked, overlaps come later. */
static zds_status read_entry(const part *p, const cJSON *entry, safetensors_tensor *t,
                             zds_error *error)
{
    *t = (safetensors_tensor){.name = entry->string, .file = p->path, .dtype = -1};
    if (!cJSON_IsObject(entry))
        return wrong(p, t->name, error, "its entry in the header is not an object");
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(entry, "dtype");
    if (!cJSON_IsString(dtype))
        return wrong(p, t->name, error, "has no dtype");
    t->dtype_name = dtype->valuestring;
    unsigned size = 0;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes && size == 0; i++)
        if (strcmp(dtypes[i].name, t->dtype_name) == 0) {
            t->dtype = dtypes[i].dtype;
            size = dtypes[i].size;
        }
    if (size == 0)
        return fail(error, ZDS_ERR_UNSUPPORTED, "%s: tensor %s: dtype \"%.32s\" is not known",
                    p->path, t->name, t->dtype_name);
    zds_status status = read_shape(p, cJSON_GetObjectItemCaseSensitive(entry, "shape"), t, error);
    if (status)
        return status;
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    uint64_t begin, end;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !whole_number(offsets->child, &begin) || !whole_number(offsets->child->next, &end) ||
        begin > end)
        return wrong(p, t->name, error, "its data_offsets are not two ascending integers");
    if (__builtin_mul_overflow(t->count, (uint64_t)size, &t->bytes) || t->bytes != end - begin)
        return fail(error, ZDS_ERR_FORMAT,
                    "%s: tensor %s: shape and dtype %s make %llu x %u bytes, its data_offsets hold "
                    "%llu",
                    p->path, t->name, t->dtype_name, (unsigned long long)t->count, size,
                    (unsigned long long)(end - begin));
    if (end > p->data_size)
        return fail(
            error, ZDS_ERR_FORMAT,
            "%s: tensor %s: ends at byte %llu of the data, of which the file has %llu (is it "
            "truncated?)",
            p->path, t->name, (unsigned long long)end, (unsigned long long)p->data_size);
    t->data = p->data + begin;
    return ZDS_OK;
}

static int by_place(const void *a, const void *b)
{
    const safetensors_tensor *x = a, *y = b;
    if (x->data != y->data)
        return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const safetensors_tensor *)a)->name, ((const safetensors_tensor *)b)->name);
}

static zds_status check_places(const part *p, safetensors_tensor *tensors, size_t count,
                               zds_error *error)
{
    qsort(tensors, count, sizeof *tensors, by_place);
    const unsigned char *next = p->data;
    for (size_t i = 0; i < count; i++) {
        const unsigned char *data = tensors[i].data;
        if (data < next)
            return wrong(p, tensors[i].name, error, "its bytes overlap those of another tensor");
        if (data > next)
            return wrong(p, tensors[i].name, error,
                         "there is a hole between its bytes and those of the tensor before it");
        next = data + tensors[i].bytes;
    }
    if (next != p->data + p->data_size)
        return fail(error, ZDS_ERR_FORMAT, "%s: %llu bytes behind the last tensor belong to none",
                    p->path, (unsigned long long)(p->data + p->data_size - next));
    return ZDS_OK;
}

static zds_status add_part(safetensors *file, part *p, zds_error *error)
{
    zds_status status = map_file(p, error);
    if (!status)
        status = read_header(p, error);
    if (status)
        return status;
    size_t more = 0;
    for (const cJSON *entry = p->header->child; entry; entry = entry->next)
        more++;
    safetensors_tensor *grown =
        realloc(file->tensors, (file->count + more + 1) * sizeof *file->tensors);
    if (!grown)
        return fail(error, ZDS_ERR_MEMORY, "%s: there is no memory for its header", p->path);
    file->tensors = grown;
    safetensors_tensor *mine = grown + file->count;
    size_t count = 0;
    for (const cJSON *entry = p->header->child; entry; entry = entry->next) {
        if (strcmp(entry->string, "__metadata__") == 0)
            continue;
        status = read_entry(p, entry, &mine[count], error);
        if (status)
            return status;
        count++;
    }
    status = check_places(p, mine, count, error);
    file->count += count;
    return status;
}

/* The distinct file names of an index's weight_map become parts. */
static zds_status parts_from_index(safetensors *file, const char *path, zds_error *error)
{
    part index = {.path = strdup(path)};
    cJSON *tree = NULL;
    zds_status status = index.path ? map_file(&index, error)
                                   : fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", path);
    if (status)
        goto out;
    if (index.size > MAX_HEADER) {
        status = fail(error, ZDS_ERR_FORMAT, "%s: is larger than an index may be", path);
        goto out;
    }
    tree = cJSON_ParseWithLength((const char *)index.bytes, index.size);
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(tree, "weight_map");
    if (!cJSON_IsObject(map) || !map->child) {
        status = fail(error, ZDS_ERR_FORMAT, "%s: is not JSON with an object \"weight_map\"", path);
        goto out;
    }
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    for (const cJSON *item = map->child; item && !status; item = item->next) {
        if (!cJSON_IsString(item) || strchr(item->valuestring, '/') || !item->valuestring[0]) {
            status = fail(error, ZDS_ERR_FORMAT,
                          "%s: tensor %s: weight_map does not give the name of a file beside it",
                          path, item->string);
            break;
        }
        bool known = false;
        for (size_t i = file->part_count; i-- > 0 && !known;) /* mostly the last one again */
            known = strcmp(file->parts[i].path + folder, item->valuestring) == 0;
        if (known)
            continue;
        if (file->part_count == 4096) {
            status = fail(error, ZDS_ERR_FORMAT, "%s: names more than 4096 files", path);
            break;
        }
        part *grown = realloc(file->parts, (file->part_count + 1) * sizeof *grown);
        if (grown)
            file->parts = grown;
        char *name = malloc((size_t)folder + strlen(item->valuestring) + 1);
        if (!grown || !name) {
            free(name);
            status = fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", path);
            break;
        }
        memcpy(name, path, (size_t)folder);
        strcpy(name + folder, item->valuestring);
        file->parts[file->part_count++] = (part){.path = name};
    }
out:
    cJSON_Delete(tree);
    if (index.bytes)
        munmap(index.bytes, index.size);
    free(index.path);
    return status;
}

zds_status safetensors_open(const char *path, safetensors **out, zds_error *error)
{
    size_t length = strlen(path);
    zds_status status = ZDS_OK;
    safetensors *file = calloc(1, sizeof *file);
    if (!file)
        return fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", path);
    if (length > 5 && strcmp(path + length - 5, ".json") == 0) {
        status = parts_from_index(file, path, error);
    } else {
        file->parts = calloc(1, sizeof *file->parts);
        if (file->parts)
            file->parts[file->part_count++].path = strdup(path);
        if (!file->parts || !file->parts[0].path)
            status = fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", path);
    }
    for (size_t i = 0; i < file->part_count && !status; i++)
        status = add_part(file, &file->parts[i], error);
    if (!status && file->count)
        qsort(file->tensors, file->count, sizeof *file->tensors, by_name);
    for (size_t i = 1; i < file->count && !status; i++)
        if (by_name(&file->tensors[i - 1], &file->tensors[i]) == 0)
            status =
                fail(error, ZDS_ERR_FORMAT, "%s: tensor %s: there is more than one of that name",
                     file->tensors[i].file, file->tensors[i].name);
    if (status) {
        safetensors_close(file);
        return status;
    }
    *out = file;
    return ZDS_OK;
}

void safetensors_close(safetensors *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->part_count; i++) {
        cJSON_Delete(file->parts[i].header);
        if (file->parts[i].bytes)
            munmap(file->parts[i].bytes, file->parts[i].size);
        free(file->parts[i].path);
    }
    free(file->parts);
    free(file->tensors);
    free(file);
}

size_t safetensors_count(const safetensors *file)
{
    return file->count;
}

const safetensors_tensor *safetensors_at(const safetensors *file, size_t i)
{
    return i < file->count ? &file->tensors[i] : NULL;
}

const safetensors_tensor *safetensors_find(const safetensors *file, const char *name)
{
    safetensors_tensor key = {.name = name};
    return file->count ? bsearch(&key, file->tensors, file->count, sizeof key, by_name) : NULL;
}

zds_status safetensors_read(const safetensors_tensor *tensor, uint64_t first, uint64_t count,
                            float *out, zds_error *error)
{
    if (first > tensor->count || count > tensor->count - first)
        return fail(error, ZDS_ERR_INVALID, "%s: tensor %s: elements %llu to %llu of %llu",
                    tensor->file, tensor->name, (unsigned long long)first,
                    (unsigned long long)(first + count), (unsigned long long)tensor->count);
    const unsigned char *data = tensor->data;
    if (tensor->dtype == ZDS_F32) {
        memcpy(out, data + first * 4, count * 4);
        return ZDS_OK;
    }
    if (tensor->dtype != ZDS_F16 && tensor->dtype != ZDS_BF16)
        return fail(error, ZDS_ERR_UNSUPPORTED,
                    "%s: tensor %s: dtype %s cannot be read as weights; F32, F16 and BF16 can",
                    tensor->file, tensor->name, tensor->dtype_name);
    for (uint64_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, data + (first + i) * 2, 2);
        out[i] = tensor->dtype == ZDS_BF16 ? float_from_bf16(half) : float_from_f16(half);
    }
    return ZDS_OK;
}
