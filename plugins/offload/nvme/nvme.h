/* The tier of files: what its parts share. folder.c has the folder and its files, queue.c the
 * copies and their events, request.c what of them moves at a time, ring.c and threads.c who moves
 * it. */
#ifndef OFFLOAD_NVME_H
#define OFFLOAD_NVME_H

#include <pthread.h>
#include <sys/types.h>

#include "zds/plugin.h"

typedef struct settings {
    int64_t block_size, queue_depth, intra_op_parallelism;
    bool single_submit, overlap_events;
} settings;

/* === the folder === */

enum { NAME_MOST = 32 };
typedef struct folder {
    int parent, fd, lock;
    char *path; /* of the parent */
    char name[NAME_MOST];
    uint64_t files; /* made so far */
} folder;

/* What the file system says of files there. */
typedef struct traits {
    bool direct; /* O_DIRECT is to be had */
    uint64_t alignment, memory_alignment;
} traits;

typedef struct tier tier;

zds_status folder_open(tier *t, const char *path);
void folder_close(tier *t); /* of one that was opened, wholly or in part */
zds_status folder_traits(tier *t);
/* A file of `bytes` zeros, every one of which has its place on the disk. */
zds_status folder_make_file(tier *t, uint64_t bytes, uint64_t *number, int *fd);
void folder_remove_file(tier *t, uint64_t number, int fd);

/* "/path/zds-nvme-0123456789abcdef/block-7" */
enum { SHOWN_MOST = 4300 };
void folder_show(const tier *t, uint64_t number, char shown[SHOWN_MOST]);
/* What to do about an errno. */
const char *folder_advice(int error);

/* === copies === */

/* A block's handle. */
typedef struct file {
    uint64_t number, bytes;
    int fd;
} file;

/* One copy, and the event of its end. */
typedef struct op op;
struct op {
    zds_event base;
    tier *tier;
    const file *from, *to; /* at least one */
    char *memory;          /* at the other end */
    uint64_t from_offset, to_offset, bytes;
    uint64_t issued;    /* bytes that requests were made of */
    uint64_t moved;     /* bytes that are there */
    uint32_t in_flight; /* requests */
    bool done;
    zds_status status;
    /* Of the first failure. */
    int error;         /* errno; 0: the file has ended early, or `status` is of an event */
    bool ended, wrote; /* by a write */
    uint64_t number, offset, length;
    int64_t started_ms;
    op *before, *after;      /* among those that are not done, the oldest first */
    op *next;                /* in the one list that it is in: ready, asked, dependents */
    op *dependents;          /* that wait for this one */
    size_t wait, wait_count; /* the event that it waits for now */
    zds_status asked;        /* what that has said to the keeper */
    zds_event *waits[];
};

typedef struct op_list {
    op *first, *last;
} op_list;

/* A piece of a copy, which whoever moves it has. */
typedef struct request {
    op *op;
    uint64_t first;  /* its place in the copy */
    uint64_t bytes;  /* of the copy */
    uint64_t length; /* of the file: whole alignments */
    uint64_t moved;
    char *address;  /* of the copy's memory, or a bounce buffer */
    int32_t bounce; /* which; -1: none */
    bool writing;
    int stuck; /* transfers without a step forward */
    int error;
    bool ended;
} request;

typedef enum step { STEP_DONE, STEP_ON, STEP_LATER } step;

/* Of a transfer to come: where, and how much. */
int request_fd(const request *r);
uint64_t request_offset(const request *r);
/* Before the first transfer. */
void request_begin(const tier *t, request *r);
/* After one, which gave `result`: bytes, or -errno. */
step request_moved(const tier *t, request *r, int64_t result);

/* === the tier === */

typedef struct ring ring;

struct tier {
    const zds_host *host;
    settings set;
    int32_t rank;
    pid_t process;
    folder folder;
    traits traits;
    uint64_t request_bytes; /* of one request */
    uint32_t depth;

    /* Bounce buffers, made with the first copy that needs one: an array, and which are free. */
    char *bounces;
    uint64_t bounce_bytes;
    int32_t bounce_free, *bounce_stack;

    pthread_mutex_t lock; /* of all that follows, of all copies and of the bounce buffers */
    pthread_cond_t work;  /* for those who move bytes */
    pthread_cond_t done;  /* a copy is */
    pthread_cond_t asks;  /* for the keeper */
    op_list ready;        /* to be moved */
    op *asked;            /* wait for events of others */
    op *oldest, *newest;  /* of all that is not done */
    size_t live;
    bool stopping;

    ring *ring; /* NULL: threads move the bytes */
    pthread_t keeper, *movers;
    int32_t mover_count;
    bool kept; /* there is a keeper */
};

static inline uint64_t round_up(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

zds_status queue_open(tier *t);
void queue_close(tier *t);
zds_status queue_copy(tier *t, const zds_copy *copy, zds_event **done);
/* For those who move bytes, which hold the lock: the next request, if there is one; one that is
 * over. */
bool queue_take(tier *t, request *r);
void queue_finish(tier *t, const request *r);
/* A thread that no signal reaches. */
bool start_thread(pthread_t *thread, void *(*body)(void *), void *arg);
/* Sleeps a moment, where the system asks to be asked again. */
void nap(void);

/* One of them; ring_open: 0, or the errno for which there can be none. */
int ring_open(tier *t);
void ring_wake(tier *t); /* there is something to take; the lock is held */
void ring_close(tier *t);
zds_status threads_open(tier *t);
void threads_close(tier *t);

#endif
