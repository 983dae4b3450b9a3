/* The words of Hjson: white space, comments, keys, strings, numbers. */
#ifndef CORE_CONFIG_SCAN_H
#define CORE_CONFIG_SCAN_H

#include <locale.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct scan {
    const char *text; /* [length], followed by a NUL */
    size_t length, at;
    size_t mark, line_start; /* line_start is that of the line in which `mark` lies */
    locale_t c_locale;       /* so that numbers have a point wherever we run */
    char *word;              /* the last key or string, NUL-ended; grows */
    size_t word_length, word_space;
    const char *error; /* set by what fails: a sentence */
    size_t error_at;
} scan;

enum { SCAN_FAILED = -1, SCAN_STRING, SCAN_NUMBER, SCAN_TRUE, SCAN_FALSE, SCAN_NULL };

/* `text` stays the caller's. False if there is no memory. */
bool scan_begin(scan *s, const char *text, size_t length);
void scan_end(scan *s);
/* Checks that the text is UTF-8 without NUL; sets error and error_at. */
bool scan_check_utf8(scan *s);
bool scan_fail(scan *s, size_t at, const char *error); /* false */

/* Moves past white space and comments; returns the next character, 0 at the end, or
 * SCAN_FAILED in a comment that does not end. */
int scan_next(scan *s);
/* A key, into word; stops at the ':' (or before what stands in its place). */
bool scan_key(scan *s);
/* A value that is no object and no array: into word for SCAN_STRING, else *number. */
int scan_scalar(scan *s, double *number, bool *quoteless);

#endif
