/* Memory bandwidth as the optimizer sees it. */
#ifndef APPS_ZDS_BENCH_STREAM_H
#define APPS_ZDS_BENCH_STREAM_H

#include <stddef.h>

typedef struct stream_result {
    double read_gbs;      /* one stream read */
    double triad_gbs;     /* a = b + s c, counted as STREAM does: three streams */
    double optimizer_gbs; /* four streams read, three of them written in place: seven counted */
} stream_result;

/* Best of `repeats` over arrays of `elements` floats each (four of them), on `threads` bound
 * threads. Returns 0 without memory or threads. */
int stream_measure(int threads, size_t elements, int repeats, stream_result *out);

#endif
