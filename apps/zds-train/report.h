/* What a run tells while it trains: metrics.jsonl, the progress line, the loss curve, memory. */
#ifndef ZDS_TRAIN_REPORT_H
#define ZDS_TRAIN_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "zds/engine.h"

typedef struct report {
    FILE *metrics;
    char *path, *final_path; /* of metrics; NULL final_path: they are the same */
    bool terminal, line_open;
    bool nameless; /* the metrics' file has no name yet: if the process is killed, it is gone */
    int64_t logging_steps, total;
    double *losses; /* (steps) */
    int64_t steps;
    double seconds;  /* of all steps but the first, which warms up */
    double unlogged; /* losses since the last line, and how many */
    int64_t unlogged_count;
} report;

/* Metrics go to FOLDER/metrics.jsonl, or, where there is one already, beside it until
 * report_finish. `terminal`: a progress line. */
zds_status report_create(const char *folder, int64_t logging_steps, int64_t total, report *r,
                         zds_error *error);
zds_status report_step(report *r, const zds_step_result *result, double seconds, double tokens,
                       zds_error *error);
/* Ends the progress line; other output may follow. */
void report_pause(report *r);
/* Metrics take their final name. */
zds_status report_finish(report *r, zds_error *error);
/* Without report_finish the metrics of a run that failed stay, unless they are empty or beside
 * those of an older one. */
void report_destroy(report *r);

/* The loss over steps, as a curve of 72 x 12 characters. */
void report_curve(const report *r, FILE *out);
/* The groups of parameters and their hyperparameters, a line each. */
void report_groups(const zds_engine *engine, FILE *out);
/* Bytes by purpose, the engine's and the model's own. */
void report_memory(const zds_engine *engine, size_t model_bytes, FILE *out);

#endif
