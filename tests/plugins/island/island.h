/* The island: a device without hardware, on which zds tests itself. Its memory has addresses that
 * nobody can read or write but by way of its own view; its work is done late, by a thread of its
 * own, in any order that streams and events allow; its errors come late as well. A tier, a backend
 * that connects islands, and a wrapper for each optimizer that comes with zds. */
#ifndef TESTS_PLUGINS_ISLAND_H
#define TESTS_PLUGINS_ISLAND_H

#include <pthread.h>
#include <stdbool.h>

#include "zds/plugin.h"

#pragma GCC visibility push(hidden)

enum { ISLAND_TEXT = 256 };

/* === memory (memory.c) === */

/* Zeroed; NULL without memory. The address has no rights. */
void *island_alloc(uint64_t bytes);
void island_free(void *address);
/* Where the island itself finds what is at the address; memory that is not the island's is where it
 * is. Thread-safe. */
void *island_view(const void *address);
/* Of an address that work on the island gets as `field`: NULL, or the island's, as no device reads
 * the host's memory; another aborts, with the field's name. */
void *island_view_of_ours(const void *address, const char *field);
/* The address of what the island finds at `view`. */
void *island_address(const void *view);
/* All of it lies in one allocation of the island. */
bool island_owns(const void *address, uint64_t bytes);

/* === events (device.c) === */

/* One lock for all that happens on islands. */
extern pthread_mutex_t island_lock;
extern pthread_cond_t island_changed;

typedef struct island_event {
    zds_event base; /* the first, as zds_event says */
    const zds_host *host;
    int references; /* of whoever has it and of what waits for it */
    bool done;
    zds_status status;
    char text[ISLAND_TEXT]; /* of an error */
} island_event;

/* One reference; without stream_wait the host's waiting is the only way. */
island_event *island_event_make(const zds_host *host, bool stream_wait);
/* With the lock. */
void island_event_drop(island_event *e);
void island_event_end(island_event *e, zds_status status, const char *text);
/* With the lock: true if it is done; *status: how it ended. Of any event. */
bool island_is_done(zds_event *event, zds_status *status, bool *foreign);

/* === devices and streams (device.c) === */

typedef struct island_device island_device;
typedef struct island_stream island_stream;

typedef struct island_options {
    int64_t seed, delay_us, fail_after;
    bool stream_wait;
} island_options;

island_device *island_device_make(const zds_host *host, const island_options *options);
void island_device_end(island_device *d);

/* What the thread does: `text` is for the error. */
typedef zds_status (*island_work)(void *arg, char *text);

/* Puts work on the device: after the waits, and on a stream after what is there. `arg` was
 * malloc'ed and is freed after the work, or when it cannot be put there. `work` NULL: nothing but
 * the order. done NULL: nobody asks. */
zds_status island_put(island_device *d, const zds_stream *stream, zds_event *const *waits,
                      size_t wait_count, island_work work, void *arg, zds_event **done);
/* Likewise, after an event that the work itself refers to. */
zds_status island_put_after(const zds_stream *stream, island_event *event);

zds_status island_stream_make(island_device *d, zds_stream *stream);
void island_stream_end(zds_stream *stream);
zds_status island_stream_sync(const zds_stream *stream);
island_device *island_device_of(const zds_stream *stream);

/* === plugins === */

extern const zds_plugin island_tier;
extern zds_plugin island_comm; /* filled by island_comm_init */
bool island_comm_init(void);

/* What an optimizer's collective step gets on the island, optim_comm.c: operations for its own
 * memory, of which it has views. All ranks call them alike, and they are over when they return. */
typedef struct island_own_comm {
    zds_comm_ops ops; /* what is seen of it, */
    const zds_comm_ops *real;
    void *real_self;
    zds_device device;
    uint64_t ranks;
    const zds_host *host;
} island_own_comm;

/* `ops` of `own` then go with `own` itself. */
void island_own_comm_init(island_own_comm *own, const zds_comm_ops *real, void *real_self);

#pragma GCC visibility pop

/* The wrapper of an optimizer, or NULL if there is no room for one. Tests find it by its name. */
ZDS_EXPORT const zds_plugin *island_wrap(const zds_plugin *optim);

#endif
