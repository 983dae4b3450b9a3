/* The table of ds_config's keys: the one place that knows them. Reading, checking, suggestions,
 * the JSON Schema and the reference page all come from it. Options below optimizer.params and
 * scheduler.params are in the plugins' own tables. */
#ifndef CORE_CONFIG_FIELD_H
#define CORE_CONFIG_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum field_type {
    FIELD_BOOL,
    FIELD_INT,
    FIELD_FLOAT,
    FIELD_STRING,
    FIELD_ENUM,     /* one of `choices` */
    FIELD_STRINGS,  /* array of strings */
    FIELD_INTS,     /* array of integers */
    FIELD_FLOATS,   /* array of numbers */
    FIELD_OBJECT,   /* a section */
    FIELD_SECTIONS, /* array of sections: the row of each is below it, with '*' for its number */
    FIELD_ANY
} field_type;

/* What becomes of a key in an engine. */
typedef enum field_support {
    FIELD_DONE,    /* does what the doc says, but for the values in `planned` */
    FIELD_PLANNED, /* known; a value other than the default is an error until it is done */
    FIELD_NOOP,    /* changes nothing in DeepSpeed either */
    FIELD_REFUSED, /* for PyTorch, Python or inference: other values than the default are errors */
    FIELD_DEPRECATED, /* stands for `successor` */
    FIELD_REMOVED     /* an error whatever its value */
} field_support;

enum {
    FIELD_NULLABLE = 1 << 0,   /* null is a value */
    FIELD_TYPED = 1 << 1,      /* DeepSpeed checks it itself; of a section: unknown keys too */
    FIELD_OPEN = 1 << 2,       /* a section whose keys are not ours to check */
    FIELD_MAP = 1 << 3,        /* a section whose keys are names: rows below it have '*' there */
    FIELD_OR_BOOL = 1 << 4,    /* a section that may be true or false instead */
    FIELD_NO_CASE = 1 << 5,    /* choices match without case */
    FIELD_MIN = 1 << 6,        /* value >= min */
    FIELD_ABOVE = 1 << 7,      /* value > min */
    FIELD_MAX = 1 << 8,        /* value <= max */
    FIELD_NO_BOOL = 1 << 9,    /* a number that DeepSpeed does not take from true and false */
    FIELD_OR_AUTO = 1 << 10,   /* "auto" is a value of its own, which nothing fills */
    FIELD_OR_STRING = 1 << 11, /* one string stands for an array of one */
    FIELD_BELOW = 1 << 12,     /* value < max */
    FIELD_OR_TYPE = 1 << 13,   /* a string stands for a section with that `type` */
    FIELD_OR_TIER = 1 << 14    /* beside the choices, a name that stands in zds.tiers */
};

enum { STAGE_1_2 = 1 << 1 | 1 << 2, STAGE_2 = 1 << 2, STAGE_3 = 1 << 3 };

typedef struct field {
    const char *path; /* dotted */
    field_type type;
    field_support support;
    const char *fallback; /* the default, as JSON text but strings without quotes; NULL: null, or,
                             with a section, absent */
    const char *doc;      /* one line */
    uint32_t flags;
    double min, max;
    const char *choices;   /* "mean|sum" */
    const char *alias;     /* another spelling of the last part of the path */
    const char *successor; /* of DEPRECATED: the path to use instead */
    const char *auto_from; /* what fills "auto" */
    const char *planned;   /* values of a DONE key that are not done yet: "3" */
    const char *reason;    /* of REFUSED and REMOVED; inherited from the section where NULL */
    uint32_t stages;       /* 1 << stage of ZeRO, for each at which the key is read; 0: all */
} field;

/* Rows are numbered from 0 in the order of the reference page. A section comes before its keys. */
size_t field_count(void);
const field *field_at(size_t i);
/* The last part of a path. */
const char *field_name(const field *f);
/* "true or false", "an integer >= 1", "one of: mean, sum": what to write. */
void field_expects(const field *f, char *text, size_t size);
/* Calls visit(choice, length) for each of a '|' separated list until it returns true; returns that.
 */
bool field_has_choice(const char *choices, const char *text, bool no_case);

/* A hash from paths, aliases included, to rows. */
enum { FIELD_INDEX_SIZE = 2048 };
typedef struct field_index {
    uint16_t slot[FIELD_INDEX_SIZE]; /* row + 1, or 0 */
} field_index;

void field_index_fill(field_index *index);
/* The row of parent's key `name` (parent NULL: of the root), or -1. The name may be an alias. */
int field_find(const field_index *index, const field *parent, const char *name);
/* The row of a dotted path, each part of which may be an alias, or -1. */
int field_find_path(const field_index *index, const char *path);
/* The row of the section that holds row i, or -1 for the root. */
int field_parent(const field_index *index, int i);

/* The first key of a section, or NULL. */
const field *field_first_of(const field *section);

/* The key of a section that is nearest to `name`, or NULL if none is near. */
const char *field_nearest(const field *parent, const char *name);
/* The key of any section whose name is very near to `name`, or NULL. */
const field *field_nearest_of_all(const char *name);

/* The parts of the table. */
typedef struct field_rows {
    const field *row;
    size_t count;
} field_rows;
extern const field_rows field_rows_run, field_rows_zero, field_rows_tools, field_rows_refused,
    field_rows_experts;

#endif
