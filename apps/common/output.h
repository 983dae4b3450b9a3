/* How programs speak: data on stdout, talk on stderr, and one set of exit codes. */
#ifndef APPS_COMMON_OUTPUT_H
#define APPS_COMMON_OUTPUT_H

struct cJSON;

enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1, /* failed, or problems found */
    EXIT_USAGE = 2,
    EXIT_MISMATCH = 3 /* ds_config and training arguments disagree */
};

/* Prints `tree` with a newline on stdout and deletes it; non-finite numbers become null. Returns
 * what output_end does. A NULL tree (no memory) is a failure. */
int output_json(struct cJSON *tree);
/* Flushes stdout. Returns EXIT_DONE, or EXIT_FAILED after saying so if anything printed so far was
 * lost (a full disk): to be returned from main. */
int output_end(void);
/* "PROGRAM: error: text" on stderr; returns EXIT_FAILED. */
int output_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
