/* All that is wrong, collected so that it is told at once: one by one, or as text, a line each. */
#ifndef CORE_CONFIG_PROBLEMS_H
#define CORE_CONFIG_PROBLEMS_H

#include "zds/config.h"

enum { PROBLEMS_MAX = 200 }; /* kept; the rest is counted */

typedef struct problem {
    zds_problem shown; /* path and message are the list's, file is not */
    size_t order;      /* of being found */
    bool of_config;    /* not of the training arguments */
} problem;

/* Zero-initialise. */
typedef struct problems {
    problem *list; /* [count] */
    size_t count, space;
    size_t dropped; /* that are not in the list */
    bool failed;    /* no memory for one of them */
} problems;

/* Copies path and message, control characters spelt out; `file` must live as long as the list. */
void problems_add(problems *all, const zds_problem *shown, bool of_config);
/* Those of the training arguments first, each file in the order of places; what has none comes
 * last; else as found. */
void problems_sort(problems *all);
/* Keeps the first `count`. */
void problems_cut(problems *all, size_t count);
void problems_clear(problems *all);
bool problems_have_errors(const problems *all, int32_t check); /* check < 0: any */
/* How many there were. */
size_t problems_heard(const problems *all);
/* Each as "file:line:col: error: path: message\n", and how many more there are; the caller frees
 * it. NULL: there are none, or no memory. */
char *problems_text(const problems *all);

#endif
