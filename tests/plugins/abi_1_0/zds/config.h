/* ds_config.json, the file that DeepSpeed and Hugging Face's Trainer read: loaded, checked,
 * resolved, typed.
 *
 * raw: what the user wrote, with the place of every value. resolved: "auto" filled and matched
 * against training arguments. effective: every known key typed, defaulted and range-checked; the
 * getters below read this form. A zds_config is immutable after zds_config_load and may be read
 * from any thread.
 *
 * JSON goes in and comes out as text. What a function returns as char * is the caller's, who
 * frees it with free(), and NULL if there is no such thing or no memory; a const char * belongs to
 * the object that it came from.
 *
 * Structs grow at their end. Where the library fills one or shows one, it writes struct_size, the
 * bytes that it knows of it. Functions that fill one are inline here, and tell the library the
 * size that this header gives it: fields that the library does not know come out as zeros. (Their
 * parameters end in '_' so that they shadow nothing of a program's.) */
#ifndef ZDS_CONFIG_H
#define ZDS_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zds/status.h"

ZDS_BEGIN_DECLS

typedef struct zds_config zds_config;

/* What the run knows beside the file. Zero-initialise, set struct_size, which is ZDS_ERR_INVALID if
 * it is less than that of ABI 1.0; any other zero field means "not known". */
typedef struct zds_config_context {
    size_t struct_size;
    int32_t world_size;         /* 0: as the launcher says in the environment; without one, 1 */
    int64_t hidden_size;        /* fills "auto" of the bucket sizes */
    int64_t num_training_steps; /* fills "auto" of scheduler.params.total_num_steps */
    bool auto_find_batch_size;  /* as the argument of that name */
    /* Also do what accelerate does between the Trainer and DeepSpeed: --bf16 and --fp16 turn the
     * section on where the file has none; some leftover "auto" values get a default. Only with
     * `arguments_source`. */
    bool accelerate;
    /* Also hold optimizer.params and scheduler.params against the tables of the plugins that they
     * name, and the names against the plugins that there are. */
    bool check_plugins;
    bool trust_plugins; /* as zds_engine_options.trust_config_plugins, for check_plugins */
    /* Fields of transformers' TrainingArguments, an object: a path, or JSON text; NULL: none given.
     * Names that it does not have, wrong types and numbers out of range are problems. */
    const char *arguments_source;
} zds_config_context;

/* One thing that is wrong, or unwise, with a config. */
enum { ZDS_PROBLEM_ERROR = 0, ZDS_PROBLEM_WARNING = 1 };
/* Who would notice. */
enum {
    ZDS_CHECK_SYNTAX = 0,    /* a reader of the files: duplicate keys, arguments that are none */
    ZDS_CHECK_ARGUMENTS = 1, /* transformers: the file and the training arguments disagree */
    ZDS_CHECK_DEEPSPEED = 2, /* DeepSpeed's own reading of the config fails too */
    ZDS_CHECK_ZDS = 3        /* DeepSpeed lets it pass, or fails only later */
};
typedef struct zds_problem {
    size_t struct_size; /* written by the library */
    int32_t severity;
    int32_t check;        /* ZDS_CHECK_... */
    const char *path;     /* "zero_optimization.stage" */
    const char *message;  /* what is wrong; what to write instead */
    const char *file;     /* as the user named the source; "<string>" and "<arguments>" for text */
    int32_t line, column; /* from 1; 0 where the value is not in the file */
} zds_problem;

/* Loads a config from a path, JSON text (its first non-blank character is '{'), or URL-safe base64
 * of JSON text. Always returns an object in *config unless memory ends or the source cannot be read
 * or parsed at all; problems are listed by zds_config_problem, all at once. `context` may be NULL.
 * ZDS_ERR_CONFIG if there is at least one error (the object is made all the same and shows them);
 * ZDS_ERR_MISMATCH if all of them are ZDS_CHECK_ARGUMENTS, and one is a difference between the two;
 * ZDS_ERR_FORMAT, ZDS_ERR_NOT_FOUND,
 * ZDS_ERR_IO, ZDS_ERR_MEMORY without an object. */
zds_status zds_config_load(const char *source, const zds_config_context *context,
                           zds_config **config, zds_error *error);
void zds_config_destroy(zds_config *config);

/* Problems in the order of their places. The pointers live as long as the config. Returns false
 * past the last. */
bool zds_config_problem_sized(const zds_config *config, size_t index, zds_problem *problem,
                              size_t size);
static inline bool zds_config_problem(const zds_config *config_, size_t index_,
                                      zds_problem *problem_)
{
    return zds_config_problem_sized(config_, index_, problem_, sizeof *problem_);
}

/* The text that was read from the file that a problem names, [*length]; NULL if there is none. */
const char *zds_config_text(const zds_config *config, const char *file, size_t *length);

/* All problems, each as "file:line:col: error: path: message\n"; NULL if there are none. */
char *zds_config_problems_text(const zds_config *config);

/* Effective values by dotted path ("zero_optimization.stage"). An unknown path is a fault of the
 * caller: it asserts in debug builds and returns 0, NaN or NULL. Where the effective value is null:
 * false, INT64_MIN, NaN, NULL. */
bool zds_config_bool(const zds_config *config, const char *path);
int64_t zds_config_int(const zds_config *config, const char *path);
double zds_config_float(const zds_config *config, const char *path);
const char *zds_config_string(const zds_config *config, const char *path);
/* The resolved JSON below a path ("optimizer.params"; "" is all of it), or NULL if it is absent. */
char *zds_config_node(const zds_config *config, const char *path);
/* The training arguments that were given and are right, an object; NULL: none were given. */
char *zds_config_arguments(const zds_config *config);
/* True if the user wrote this key with a value other than null. */
bool zds_config_is_set(const zds_config *config, const char *path);
/* "file:line:col" of the nearest enclosing node that the user wrote, for messages about a value. */
const char *zds_config_place(const zds_config *config, const char *path);

/* Which of the four combinations this is: "the config's optimizer with the program's schedule". The
 * program's is used where ds_config has no such section. */
const char *zds_config_combination(const zds_config *config);

/* The effective value of one key, or the resolved one of a key below optimizer.params and
 * scheduler.params; NULL if there is no such key. */
char *zds_config_value(const zds_config *config, const char *path);
/* Every effective value, an object under the names of DeepSpeedConfig's attributes. */
char *zds_config_effective(const zds_config *config);

/* === the keys themselves === */

typedef struct zds_config_key {
    size_t struct_size;    /* written by the library */
    const char *path;      /* '*' stands for any name */
    const char *type;      /* "bool", "int", "float", "string", "enum", "strings", "ints",
                              "floats", "section", "sections", "any" */
    const char *fallback;  /* the default as JSON text; NULL: a section that is absent by default */
    const char *expects;   /* what to write: "an integer > 0" */
    const char *choices;   /* of an enum, '|' between them; else NULL */
    const char *aliases;   /* other spellings of the last part; "" */
    const char *successor; /* the path that replaces a deprecated key; NULL */
    const char *auto_from; /* what fills "auto"; NULL: nothing */
    const char *support;   /* "implemented", "planned", "without effect", "refused", "deprecated",
                              "removed" */
    const char *planned;   /* values of an implemented key that are only planned: "3"; or NULL */
    const char *reason;    /* why, for refused and removed; else NULL */
    const char *doc;       /* one line */
    double min, max;       /* of numbers; -INFINITY, INFINITY: none */
    bool above_min;        /* min itself is out of range */
    bool below_max;        /* so is max */
    bool nullable, open;   /* null is a value; a section whose keys are not in the table */
} zds_config_key;

/* Visits all keys in the order of the reference page until `visit` returns false. The texts live
 * as long as the call. */
void zds_config_keys(bool (*visit)(void *user, const zds_config_key *key), void *user);
/* The known key that is nearest to a path, or NULL. */
const char *zds_config_nearest_key(const char *path);
/* The keys as JSON Schema 2020-12, with the names and options of the optimizers and schedules found
 * in `plugin_path` (folders separated by ':', may be NULL), ZDS_PLUGIN_PATH and the install's
 * plugin folder, indented. The caller frees *schema. ZDS_ERR_MEMORY. */
zds_status zds_config_schema(const char *plugin_path, char **schema, zds_error *error);

/* === HfDeepSpeedConfig and HfTrainerDeepSpeedConfig of transformers === */

/* A config whose "auto" values are filled step by step. One thread at a time. */
typedef struct zds_hf_config zds_hf_config;

/* From a path, JSON text or base64, as zds_config_load. */
zds_status zds_hf_config_create(const char *source, zds_hf_config **hf, zds_error *error);
void zds_hf_config_destroy(zds_hf_config *hf);

/* All of it, as it is now. */
char *zds_hf_config_json(const zds_hf_config *hf);
/* find_config_node: the object that holds the last part of a dotted path, and that part, which
 * points into `path` (`key` may be NULL); NULL if a section on the way is missing. */
char *zds_hf_config_find_node(const zds_hf_config *hf, const char *path, const char **key);
/* get_value; NULL where it is not set. */
char *zds_hf_config_value(const zds_hf_config *hf, const char *path);
/* Both are false where the value is not set or null. Truth is Python's: "" and 0 are false. */
bool zds_hf_config_is_true(const zds_hf_config *hf, const char *path);
bool zds_hf_config_is_false(const zds_hf_config *hf, const char *path);
bool zds_hf_config_is_auto(const zds_hf_config *hf, const char *path);
/* del_config_sub_tree. ZDS_ERR_NOT_FOUND if it must exist and does not. */
zds_status zds_hf_config_delete(zds_hf_config *hf, const char *path, bool must_exist,
                                zds_error *error);
bool zds_hf_config_is_zero1(const zds_hf_config *hf);
bool zds_hf_config_is_zero2(const zds_hf_config *hf);
bool zds_hf_config_is_zero3(const zds_hf_config *hf);
bool zds_hf_config_is_offload(const zds_hf_config *hf); /* looks at stages 2 and 3 only */
/* "float32", "float16" or "bfloat16"; NULL before zds_hf_config_process. */
const char *zds_hf_config_dtype(const zds_hf_config *hf);

/* Puts `value`, JSON text, in place of "auto"; if the key holds something else and `must_match`,
 * notes a difference. ZDS_ERR_FORMAT: `value` is no JSON; ZDS_ERR_MEMORY. */
zds_status zds_hf_config_fill_match(zds_hf_config *hf, const char *path, const char *value,
                                    const char *hf_key, bool must_match);
zds_status zds_hf_config_fill_only(zds_hf_config *hf, const char *path, const char *value);

/* trainer_config_process: all that follows from the arguments alone. ZDS_ERR_CONFIG: a section is
 * no object, or an argument is not TrainingArguments'. */
zds_status zds_hf_config_process(zds_hf_config *hf, const zds_config_context *context,
                                 zds_error *error);
/* trainer_config_finalize: what needs the model's hidden size (the largest, where it has several)
 * and the number of training steps. ZDS_ERR_MISMATCH: the text lists all differences;
 * ZDS_ERR_CONFIG: an "auto" that nothing fills. */
zds_status zds_hf_config_finalize(zds_hf_config *hf, const zds_config_context *context,
                                  zds_error *error);

typedef struct zds_hf_mismatch {
    size_t struct_size; /* written by the library */
    const char *ds_key, *hf_key;
    const char *ds_value, *hf_value; /* JSON text */
} zds_hf_mismatch;
/* Differences so far, in transformers' order; false past the last. */
bool zds_hf_config_mismatch_sized(const zds_hf_config *hf, size_t index, zds_hf_mismatch *mismatch,
                                  size_t size);
static inline bool zds_hf_config_mismatch(const zds_hf_config *hf_, size_t index_,
                                          zds_hf_mismatch *mismatch_)
{
    return zds_hf_config_mismatch_sized(hf_, index_, mismatch_, sizeof *mismatch_);
}

/* The same view of a loaded config: its resolved form. Belongs to the config. */
const zds_hf_config *zds_config_hf(const zds_config *config);

ZDS_END_DECLS
#endif
