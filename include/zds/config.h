/* ds_config.json, the file that DeepSpeed and Hugging Face's Trainer read: loaded, checked,
 * resolved, typed.
 *
 * raw: what the user wrote, with the place of every value. resolved: "auto" filled and matched
 * against training arguments. effective: every known key typed, defaulted and range-checked; the
 * getters below read this form. A zds_config is immutable after zds_config_load and may be read
 * from any thread. */
#ifndef ZDS_CONFIG_H
#define ZDS_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zds/status.h"

ZDS_BEGIN_DECLS

struct cJSON;

typedef struct zds_config zds_config;

/* What the run knows beside the file. Zero-initialise, set struct_size; a zero field means "not
 * known". */
typedef struct zds_config_context {
    size_t struct_size;
    int32_t world_size;         /* 0: taken as 1 */
    int64_t hidden_size;        /* fills "auto" of the bucket sizes */
    int64_t num_training_steps; /* fills "auto" of scheduler.params.total_num_steps */
    const struct cJSON
        *arguments; /* TrainingArguments fields; NULL: none given. Not modified, not kept */
    bool auto_find_batch_size;
    /* Also do what accelerate does between the Trainer and DeepSpeed: --bf16 and --fp16 turn the
     * section on where the file has none; some leftover "auto" values get a default. Only with
     * `arguments`. */
    bool accelerate;
} zds_config_context;

/* One thing that is wrong, or unwise, with a config. */
enum { ZDS_PROBLEM_ERROR = 0, ZDS_PROBLEM_WARNING = 1 };
/* Who would notice. */
enum {
    ZDS_CHECK_SYNTAX = 0,    /* a reader of the file: duplicate keys */
    ZDS_CHECK_ARGUMENTS = 1, /* transformers: the file and the training arguments disagree */
    ZDS_CHECK_DEEPSPEED = 2, /* DeepSpeed's own reading of the config fails too */
    ZDS_CHECK_ZDS = 3        /* DeepSpeed lets it pass, or fails only later */
};
typedef struct zds_problem {
    int32_t severity;
    int32_t check;        /* ZDS_CHECK_... */
    const char *path;     /* "zero_optimization.stage" */
    const char *message;  /* what is wrong; what to write instead */
    const char *file;     /* as the user named the source; "<string>" for inline text */
    int32_t line, column; /* from 1; 0 where the value is not in the file */
} zds_problem;

/* Loads a config from a path, JSON text (its first non-blank character is '{'), or URL-safe base64
 * of JSON text. Always returns an object in *config unless memory ends or the source cannot be read
 * or parsed at all; problems are listed by zds_config_problem, all at once. `context` may be NULL.
 * ZDS_ERR_CONFIG if there is at least one error (the object is made all the same and shows them);
 * ZDS_ERR_MISMATCH if all of them are ZDS_CHECK_ARGUMENTS; ZDS_ERR_FORMAT, ZDS_ERR_NOT_FOUND,
 * ZDS_ERR_IO, ZDS_ERR_MEMORY without an object. */
zds_status zds_config_load(const char *source, const zds_config_context *context,
                           zds_config **config, zds_error *error);
/* The same from a tree in memory, which is neither modified nor kept. */
zds_status zds_config_from_json(const struct cJSON *tree, const zds_config_context *context,
                                zds_config **config, zds_error *error);
void zds_config_destroy(zds_config *config);

/* Problems in the order of their places. The pointers live as long as the config. Returns false
 * past the last. */
bool zds_config_problem(const zds_config *config, size_t index, zds_problem *problem);

/* All problems as text, each as "file:line:col: error: path: message\n"; the caller frees it. NULL
 * if there are none. */
char *zds_config_problems_text(const zds_config *config);

/* Effective values by dotted path ("zero_optimization.stage"). An unknown path is a fault of the
 * caller: it asserts in debug builds and returns 0, NaN or NULL. Where the effective value is null:
 * false, INT64_MIN, NaN, NULL. */
bool zds_config_bool(const zds_config *config, const char *path);
int64_t zds_config_int(const zds_config *config, const char *path);
double zds_config_float(const zds_config *config, const char *path);
const char *zds_config_string(const zds_config *config, const char *path);
/* The resolved tree below a path ("optimizer.params"), or NULL if it is absent. Belongs to the
 * config. */
const struct cJSON *zds_config_node(const zds_config *config, const char *path);
/* True if the user wrote this key with a value other than null. */
bool zds_config_is_set(const zds_config *config, const char *path);
/* "file:line:col" of the nearest enclosing node that the user wrote, for messages about a value;
 * belongs to the config, "" if none. */
const char *zds_config_place(const zds_config *config, const char *path);

ZDS_END_DECLS
#endif
