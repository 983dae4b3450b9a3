/* What a check works with: the plugin, the host that the plugin sees, and where the verdict goes.
 * Each check runs in a process of its own. */
#ifndef ZDS_PLUGIN_PROBE_BENCH_H
#define ZDS_PLUGIN_PROBE_BENCH_H

#include <stdbool.h>
#include <stdio.h>

#include "zds/plugin.h"

struct cJSON;

enum { BENCH_THREADS = 4 };

/* How the host's parallel_for orders its calls, outside of tiles. */
enum { BENCH_FORWARD = 0, BENCH_BACKWARD = 1, BENCH_THREADED = 2 };

typedef struct bench {
    const zds_plugin *plugin;
    zds_host host;        /* handed to the plugin */
    int32_t order;        /* of parallel_for */
    struct cJSON *values; /* of options, as values_first finds them */
    int collectives;      /* steps of ZDS_REDUCE_LOCAL so far */
    char *error;          /* the text of the last host->fail */
    char *skipped;        /* set by a check that cannot run here: why, as a fault */
    char *note;           /* set by a check that passes, but has something to tell, as a fault */
} bench;

/* One check: what it is called, and the function that returns what is wrong as a fault, NULL if
 * nothing is. */
typedef struct check {
    const char *name;
    char *(*run)(bench *b);
    bool gate; /* the checks after it make no sense where this one fails */
} check;

extern const check checks_optim[], checks_sched[], checks_offload[], checks_comm[]; /* end: NULL */

void bench_init(bench *b, const zds_plugin *plugin);
void bench_clear(bench *b); /* forgets the error text, so that the next call starts afresh */

/* Why a call failed that returned `status`: "step returned \"invalid\": TEXT", as a fault. */
char *bench_failure(const bench *b, const char *function, zds_status status);

/* An event whose operations do not say how far they reach. */
char *bench_event_fault(const zds_event *event);
/* For a struct of `size` bytes that the plugin is to fill: zeros with their struct_size, and behind
 * them bytes that are not the plugin's to write. */
enum { BENCH_ROOM = 256 };
typedef struct bench_room {
    max_align_t bytes[BENCH_ROOM / sizeof(max_align_t)];
} bench_room;
void *bench_fill(bench_room *room, size_t size);
/* Takes the struct out; a fault if the plugin has written behind it. */
char *bench_filled(const bench_room *room, size_t size, void *to, const char *what);
/* Puts words before a fault, which is taken over. NULL stays NULL. */
char *bench_within(char *fault, const char *format, ...) ZDS_PRINTF(2, 3);

/* Where a check is at, for what has to be said if it dies there: in memory that the parent sees. */
enum { BENCH_WHERE = 256 };
extern char *bench_where; /* [BENCH_WHERE] */
void bench_at(const char *format, ...) ZDS_PRINTF(1, 2);
void bench_also(const char *words); /* after what bench_at has said */

/* === allocations (allocations.c) === */

long alloc_live(void);     /* pieces that were allocated and not freed, by anyone */
void alloc_watch(bool on); /* of this thread: counts its calls from now on, or stops */
/* What memory of malloc, not of calloc, holds from now on. */
void alloc_fill(int byte);
long alloc_watched(void); /* how often watched threads called malloc and its like, or free */

/* === options (values.c) === */

/* An object with a value for each option that has no default. The caller deletes it. */
struct cJSON *values_required(const zds_plugin *plugin);
/* Options that reach as many branches as one change at a time can: i counts from 0, where nothing
 * is changed; *label: what is, for messages (the caller frees it). NULL past the last. The caller
 * deletes it. */
struct cJSON *values_variant(const zds_plugin *plugin, size_t i, char **label);
/* The options struct from values that are known to fit, read-only to the plugin. NULL: they do not,
 * *fault says why. */
void *values_options(const zds_plugin *plugin, const struct cJSON *values, char **fault);

/* How an instance of the plugin's kind is made and dropped. */
typedef struct maker {
    zds_status (*make)(bench *b, const void *options, void **self);
    void (*drop)(bench *b, void *self);
} maker;
/* The defaults must be accepted; or, where options need each other in a way that a table cannot
 * say, one change to them, of which b->note tells. */
char *values_defaults(bench *b, const maker *m);
/* The first variant that is accepted; the defaults if none is. Kept in b->values. */
const struct cJSON *values_first(bench *b, const maker *m);
/* An instance for each value at the edge of what the table allows, which may be refused with a
 * reason. */
char *values_edges(bench *b, const maker *m);

/* The checks that all kinds share: what instances leave behind. */
char *bench_leaks(bench *b, char *(*cycle)(bench *b));

#endif
