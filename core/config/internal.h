/* A config inside: the trees, the effective values, the problems. */
#ifndef CORE_CONFIG_INTERNAL_H
#define CORE_CONFIG_INTERNAL_H

#include <pthread.h>

#include "config/config.h"
#include "config/field.h"
#include "config/source.h"
#include "zds/plugin.h"

/* The effective value of one row. Strings and nodes belong to the resolved tree or the table. */
typedef struct value {
    const cJSON *node;    /* what the user wrote, in the resolved tree; NULL: nothing */
    bool null;            /* the effective value is null (a section: absent) */
    bool bad;             /* a problem was reported; the default stands in */
    bool boolean;         /* BOOL */
    int64_t integer;      /* INT */
    double number;        /* FLOAT, INT */
    const char *string;   /* STRING, ENUM */
    const cJSON *list;    /* STRINGS, INTS, ANY: the node, NULL: the default */
    const cJSON *as_auto; /* FIELD_OR_AUTO: set when the value is the word */
} value;

/* A key that its section does not have. */
typedef struct stray {
    const field *section; /* NULL: the root */
    char *path;
    const cJSON *node;
} stray;

struct registry;

struct zds_config {
    const char *name; /* of the source, for messages */
    source *src;
    const cJSON *raw;         /* the source's tree, as written */
    struct zds_hf_config *hf; /* holds the resolved tree */
    const cJSON *resolved;    /* "auto" filled */
    field_index index;
    value *values; /* [field_count()] */
    problems found;
    stray strays[PROBLEMS_MAX]; /* while loading */
    size_t stray_count;
    int32_t world_size;
    source *arguments_src;         /* NULL: there are no arguments */
    cJSON *arguments;              /* those that are right; NULL: none were given */
    struct mutable_places *places; /* texts handed out by zds_config_place */
};

/* zds_config_load of a text that is read already; takes the source over. */
zds_status config_from_source(source *src, const zds_config_context *context, zds_config **config,
                              zds_error *error);
/* What the caller filled in, as this version knows it; zeros for NULL. */
zds_status config_context(const zds_config_context *given, zds_config_context *out,
                          zds_error *error);
/* Of the context, else as the launcher says; alone if there is none. */
int32_t config_world_size(const zds_config_context *context);

/* === problems === */

/* Reports at the value of `path`, or, where the path is not in the file, at the nearest section. */
void problem_add(zds_config *c, int32_t severity, int32_t check, const char *path,
                 const char *format, ...) ZDS_PRINTF(5, 6);
/* The same, at the key. */
void problem_add_key(zds_config *c, int32_t severity, int32_t check, const char *path,
                     const char *format, ...) ZDS_PRINTF(5, 6);
/* The same, at a node of the resolved tree: its key, or its value. */
void problem_add_node(zds_config *c, int32_t severity, int32_t check, const char *path,
                      const cJSON *node, bool at_key, const char *format, ...) ZDS_PRINTF(7, 8);
/* The same, anywhere; `file` must live as long as the config. */
void problem_add_at(zds_config *c, int32_t severity, int32_t check, const char *path,
                    const char *file, source_place at, const char *message);
/* Whether something was told of exactly this path of the config. */
bool problem_is_told(const zds_config *c, const char *path);
/* Takes it back; false if there was nothing. */
bool problem_retract(zds_config *c, const char *path);

/* DeepSpeed refuses it among an optimizer's options, where an old version had it. */
#define MAX_GRAD_NORM "max_grad_norm"

/* === strays === */

void stray_add(zds_config *c, const field *section, const char *path, const cJSON *node);
/* Reports them all, with where they belong; an option of a plugin is known for one if `plugins` is
 * there. */
void strays_report(zds_config *c, struct registry *plugins);
/* "it belongs in zero_optimization": where a key does that stands at `path`, but has no place
 * there; the caller frees it. NULL: nowhere. */
char *stray_place(const zds_config *c, struct registry *plugins, const char *path,
                  const cJSON *node);

/* === trees === */

/* The node at a dotted path below an object, or NULL. Keys may hold dots. */
const cJSON *tree_find(const cJSON *root, const char *path);
/* The deepest node on the way there that exists. */
const cJSON *tree_nearest(const cJSON *root, const char *path);
bool tree_is_auto(const cJSON *node);
/* JSON text that the caller frees; NULL: no node, or no memory. */
char *tree_text(const cJSON *node);
/* A number as shown in messages, without a locale: "1e-05", "3". A string in quotes, cut short. */
void tree_show(const cJSON *node, char *text, size_t size);

/* === effective values === */

/* Reads a JSON value as a row wants it, with pydantic's lax rules. NULL, or what is wrong. */
const char *value_read(const field *f, const cJSON *node, value *out);
void value_default(const field *f, value *out);
bool value_is_default(const field *f, const value *v);

/* The default as a node: strings are quoted in JSON only. NULL: a section without default. */
cJSON *field_fallback(const field *f);

void effective_fill(zds_config *c);  /* values of all rows from the resolved tree, with problems */
void effective_batch(zds_config *c); /* the three batch sizes from each other */
void effective_rules(zds_config *c); /* what rows say about each other */
/* Who chooses optimizer and schedule; what is legal but unwise. */
void effective_choice(zds_config *c);
void effective_wisdom(zds_config *c, const zds_config_context *context);

/* Row lookups that cannot fail: the path is in the table. */
const value *value_of(const zds_config *c, const char *path);

#endif
