/* The folder that the trained model goes to. */
#include "save.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fail.h"
#include "common/files.h"
#include "common/safetensors.h"

/* mkdir -p; *made: the length of the first path that is new, 0 if all was there. */
static zds_status make_folders(const char *folder, size_t *made, zds_error *error)
{
    char *path = strdup(folder);
    if (!path)
        return fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", folder);
    zds_status status = ZDS_OK;
    for (char *c = path + 1; !status; c++) {
        char kept = *c;
        if (kept != '/' && kept != '\0')
            continue;
        *c = '\0';
        bool new = mkdir(path, 0777) == 0;
        if (new && !*made)
            *made = (size_t)(c - path);
        if (!new &&errno != EEXIST)
            status =
                fail(error, ZDS_ERR_IO, "--output_dir %s: %s: %s", folder, path, strerror(errno));
        *c = kept;
        if (kept == '\0')
            break;
    }
    free(path);
    return status;
}

void output_abandon(const char *folder, size_t made)
{
    char *path = made ? strdup(folder) : NULL;
    bool empty = path != NULL;
    for (size_t length = path ? strlen(path) : 0; empty && length >= made; length--) {
        if (path[length] != '/' && path[length] != '\0')
            continue;
        path[length] = '\0';
        empty = rmdir(path) == 0 || errno == ENOENT; /* "a//b" has a name twice */
    }
    free(path);
}

zds_status output_prepare(const char *folder, bool overwrite, size_t *made, zds_error *error)
{
    static const char *const models[] = {"config.json", "model.safetensors",
                                         "model.safetensors.index.json", "pytorch_model.bin"};
    *made = 0;
    if (!*folder)
        return fail(error, ZDS_ERR_INVALID, "--output_dir is empty");
    for (size_t i = 0; i < sizeof models / sizeof *models && !overwrite; i++) {
        char *path = path_join(folder, models[i]);
        bool there = path && access(path, F_OK) == 0;
        free(path);
        if (there)
            return fail(error, ZDS_ERR_INVALID,
                        "--output_dir %s: holds a model (%s); name another folder, or give "
                        "--overwrite_output_dir",
                        folder, models[i]);
    }
    zds_status status = make_folders(folder, made, error);
    if (status)
        return status;
    if (access(folder, W_OK | X_OK) != 0)
        return fail(error, ZDS_ERR_IO, "--output_dir %s: cannot be written: %s", folder,
                    strerror(errno));
    struct stat info;
    if (stat(folder, &info) != 0 || !S_ISDIR(info.st_mode))
        return fail(error, ZDS_ERR_IO, "--output_dir %s: is not a folder", folder);
    return ZDS_OK;
}

typedef struct sink {
    safetensors_writer *writer;
    zds_error *error;
} sink;

static zds_status put(void *user, uint32_t index, uint64_t first, uint64_t count,
                      const float *values)
{
    (void)index, (void)first; /* pieces come in ascending order, parameter by parameter */
    sink *s = user;
    return safetensors_write(s->writer, values, count, s->error);
}

static zds_status start_weights(const char *folder, const params *p, zds_dtype dtype,
                                safetensors_writer **writer, zds_error *error)
{
    static const safetensors_note format[] = {{"format", "pt"}, {NULL, NULL}};
    safetensors_entry *entries = calloc(p->count, sizeof *entries);
    char *path = path_join(folder, "model.safetensors");
    zds_status status = ZDS_OK;
    if (!entries || !path)
        status = fail(error, ZDS_ERR_MEMORY, "there is no memory to save the model");
    for (size_t i = 0; i < p->count && !status; i++) {
        entries[i] = (safetensors_entry){p->list[i].name, dtype, p->list[i].ndim, {0}};
        memcpy(entries[i].shape, p->list[i].shape, sizeof p->list[i].shape);
    }
    if (!status)
        status = safetensors_create(path, entries, p->count, format, writer, error);
    free(entries);
    free(path);
    return status;
}

static zds_status save_config(const char *folder, const gpt2_config *config, zds_dtype dtype,
                              zds_error *error)
{
    char *text = gpt2_config_text(config, dtype), *path = path_join(folder, "config.json");
    zds_status status = text && path
                            ? file_replace(path, text, strlen(text), error)
                            : fail(error, ZDS_ERR_MEMORY, "there is no memory for config.json");
    free(path);
    free(text);
    return status;
}

zds_status output_save(zds_engine *engine, const char *folder, const gpt2_config *config,
                       const params *p, zds_error *error)
{
    zds_dtype dtype = zds_param_dtype(engine);
    bool writes = zds_rank(engine) == 0;
    sink s = {.error = error};
    zds_status status = writes ? start_weights(folder, p, dtype, &s.writer, error) : ZDS_OK;
    /* every rank must take part, or none: rank 0's failure is told to all first */
    double failed = status != ZDS_OK;
    zds_status told = zds_sum_over_ranks(engine, &failed, 1);
    if (!status && (told || failed > 0))
        status = told ? fail(error, told, "%s", zds_engine_error(engine))
                      : fail(error, ZDS_ERR_PEER, "rank 0 cannot write the model");
    for (size_t i = 0; i < p->count && !status; i++) {
        status = zds_get_values(engine, (uint32_t)i, NULL, put, &s);
        if (status && (!error || !error->text))
            fail(error, status, "%s", zds_engine_error(engine));
    }
    if (writes && !status)
        status = safetensors_commit(s.writer, error);
    if (writes && !status)
        status = save_config(folder, config, dtype, error);
    safetensors_destroy(s.writer);
    return status;
}
