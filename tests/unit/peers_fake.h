/* A backend of one operation, which takes so many calls of progress; nothing in it is guarded, so
 * that calls that meet are seen by ThreadSanitizer. */
#ifndef TESTS_UNIT_PEERS_FAKE_H
#define TESTS_UNIT_PEERS_FAKE_H

#include <stdlib.h>

#include "host/error.h"
#include "zero/peers.h"

typedef struct fake {
    zds_comm_ops ops;
    services services;
    failure failure;
    peers peers;
    long calls;    /* of progress */
    long left;     /* calls that the last operation still takes */
    long needed;   /* and every one at first */
    long fails_at; /* the call of progress that fails; 0: none */
    long aborts;
    size_t shared[8]; /* written by parallel_for of progress */
} fake;

typedef struct fake_event {
    zds_event event;
    fake *of;
} fake_event;

static void fake_add(void *arg, size_t i)
{
    fake *f = arg;
    f->shared[i]++;
}

static zds_status fake_progress(void *self)
{
    fake *f = self;
    if (++f->calls == f->fails_at)
        return f->services.host.fail(&f->services.host, ZDS_ERR_PEER, "rank 1 is gone");
    f->left -= f->left > 0;
    f->services.host.parallel_for(&f->services.host, 8, fake_add, f);
    return ZDS_OK;
}

static zds_status fake_wait(zds_event *event)
{
    fake *f = ((fake_event *)(void *)event)->of;
    while (f->left > 0)
        fake_progress(f);
    return ZDS_OK;
}

static zds_status fake_test(zds_event *event, int32_t *done)
{
    *done = ((fake_event *)(void *)event)->of->left == 0;
    return ZDS_OK;
}

static void fake_release(zds_event *event)
{
    free(event);
}

static const zds_event_ops fake_event_ops = {.struct_size = sizeof fake_event_ops,
                                             .test = fake_test,
                                             .wait = fake_wait,
                                             .release = fake_release};

static zds_status fake_barrier(void *self, const zds_coll *coll, zds_event **done)
{
    fake *f = self;
    (void)coll;
    fake_event *e = calloc(1, sizeof *e);
    *e = (fake_event){{&fake_event_ops}, f};
    f->left = f->needed;
    *done = &e->event;
    return ZDS_OK;
}

static void fake_abort(void *self, const char *reason)
{
    fake *f = self;
    f->aborts += *reason != 0;
}

static void fake_open(fake *f, ledger *memory, pool *threads)
{
    *f = (fake){.needed = 3};
    f->ops = (zds_comm_ops){.struct_size = sizeof f->ops,
                            .barrier = fake_barrier,
                            .progress = fake_progress,
                            .abort = fake_abort};
    services_init(&f->services, "fake", 0, memory, threads);
    f->peers = (peers){.ops = &f->ops,
                       .self = f,
                       .services = &f->services,
                       .failure = &f->failure,
                       .world_size = 2};
    peers_init(&f->peers);
}

static void fake_close(fake *f)
{
    peers_rest(&f->peers);
    peers_destroy(&f->peers);
    services_destroy(&f->services);
    failure_clear(&f->failure);
}

static void fake_tick(void *arg)
{
    peers_tick(arg);
}

#endif
