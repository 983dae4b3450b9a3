/* Moves bytes where there is no io_uring: threads with pread and pwrite, one request each. */
#include <errno.h>
#include <unistd.h>

#include "nvme.h"

static void move(const tier *t, request *r)
{
    step next = STEP_ON;
    request_begin(t, r);
    while (next != STEP_DONE) {
        char *address = r->address + r->moved;
        const size_t left = r->length - r->moved;
        const off_t offset = (off_t)request_offset(r);
        const ssize_t moved = r->writing ? pwrite(request_fd(r), address, left, offset)
                                         : pread(request_fd(r), address, left, offset);
        next = request_moved(t, r, moved < 0 ? -errno : moved);
        if (next == STEP_LATER)
            nap();
    }
}

static void *run(void *arg)
{
    tier *t = arg;
    request r;
    pthread_mutex_lock(&t->lock);
    while (!t->stopping) {
        if (!queue_take(t, &r)) {
            pthread_cond_wait(&t->work, &t->lock);
            continue;
        }
        pthread_mutex_unlock(&t->lock);
        move(t, &r);
        pthread_mutex_lock(&t->lock);
        queue_finish(t, &r);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

zds_status threads_open(tier *t)
{
    const int32_t count = (int32_t)t->set.intra_op_parallelism;
    t->movers = t->host->alloc(t->host, (size_t)count * sizeof *t->movers, 0);
    if (!t->movers)
        return t->host->fail(t->host, ZDS_ERR_MEMORY, "no memory for %d threads", (int)count);
    for (; t->mover_count < count; t->mover_count++)
        if (!start_thread(&t->movers[t->mover_count], run, t))
            return t->host->fail(t->host, ZDS_ERR_MEMORY,
                                 "the system gave %d of %d threads: lessen intra_op_parallelism",
                                 (int)t->mover_count, (int)count);
    return ZDS_OK;
}

void threads_close(tier *t)
{
    for (int32_t i = 0; i < t->mover_count; i++)
        pthread_join(t->movers[i], NULL);
    t->host->free(t->host, t->movers);
}
