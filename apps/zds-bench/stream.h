/* Memory bandwidth as the optimizer sees it. */
#ifndef APPS_ZDS_BENCH_STREAM_H
#define APPS_ZDS_BENCH_STREAM_H

#include <stddef.h>

/* The four arrays of the optimizer's mix of streams: three are read and written in place, one is
 * read. */
typedef struct stream_arrays {
    float *array[4];
    size_t elements;
    void *map[4];
    size_t mapped;
} stream_arrays;

/* Zero pages that nobody has touched. Returns 0 without memory. */
int stream_arrays_open(stream_arrays *arrays, size_t elements);
void stream_arrays_close(stream_arrays *arrays);

/* The mix over `count` elements from `first`: 28 bytes each. */
void stream_mix(const stream_arrays *arrays, size_t first, size_t count);

#endif
