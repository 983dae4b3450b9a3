/* What the island's backend and its thread share. */
#ifndef TESTS_PLUGINS_ISLAND_COMM_H
#define TESTS_PLUGINS_ISLAND_COMM_H

#include "island.h"

#pragma GCC visibility push(hidden)

typedef zds_status (*collective)(void *self, const zds_coll *coll, zds_event **done);

/* Registered memory of all communicators of a job. */
typedef struct registered {
    struct registered *next;
    const char *base;
    uint64_t bytes;
    bool within; /* the inner backend has it as well */
    zds_region inner;
} registered;

typedef struct job job;

/* One communicator. */
typedef struct comm {
    job *job;
    void *self; /* of the inner one */
    int32_t ranks;
} comm;

/* Something that the thread does: a call that somebody waits for, or an operation. */
typedef struct task {
    struct task *next;
    comm *comm;
    /* A call. */
    void (*call)(void *arg);
    void *arg;
    bool last;  /* after all that is in flight */
    bool *over; /* then the task is the caller's, who waits for this */
    /* An operation. */
    collective function;
    zds_coll coll;
    zds_event **waits;
    size_t wait_count;
    island_event *stream_work; /* what was on the stream before; has a reference */
    zds_event *inner;
    bool issued;
    double bytes, over_at;
    island_event *event;
} task;

struct job {
    const zds_host *host; /* also of the events */
    zds_host inner_host;
    char text[ISLAND_TEXT];
    zds_comm_ops ops;
    void *options; /* of the inner one */
    comm root;
    pthread_t thread;
    task *first, *last;
    registered *known;
    double gbs, us, link_free_at;
    bool stop;
};

/* The host that the inner one sees. */
zds_host island_inner_host(job *j);
/* The thread's life. */
void *island_comm_live(void *arg);
/* With the lock. */
void island_comm_enqueue(job *j, task *t);
/* Runs `call` on the thread, after what was issued before, and waits for it. `last`: after all that
 * is in flight. */
void island_on_thread(job *j, bool last, void (*call)(void *arg), void *arg);

#pragma GCC visibility pop
#endif
