/* A memory tier that is right until its n-th copy, as ZDS_TEST_WORN says, "KIND:N": the copy
 * "fails", or only its event does, "late"; of what it writes a bit "flips", or it "forgets" to. */
#include "heap_tier.h"

typedef struct failed_event {
    zds_event event;
    const zds_host *host;
} failed_event;

static zds_status test(zds_event *event, int32_t *done)
{
    const failed_event *f = (const failed_event *)event;
    *done = 1;
    return f->host->fail(f->host, ZDS_ERR_IO, "the disk is worn");
}

static zds_status wait(zds_event *event)
{
    int32_t done;
    return test(event, &done);
}

static void release(zds_event *event)
{
    const failed_event *f = (const failed_event *)event;
    f->host->free(f->host, event);
}

static const zds_event_ops event_ops = {.struct_size = sizeof event_ops,
                                        .flags = ZDS_EVENT_ANY_THREAD,
                                        .test = test,
                                        .wait = wait,
                                        .release = release};

static zds_status fail_late(const zds_host *host, zds_event **done)
{
    failed_event *f = host->alloc(host, sizeof *f, 0);
    if (!f)
        return ZDS_ERR_MEMORY;
    f->event.ops = &event_ops;
    f->host = host;
    *done = &f->event;
    return ZDS_OK;
}

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    heap *h = self;
    const char *kind = getenv("ZDS_TEST_WORN"), *colon = kind ? strchr(kind, ':') : NULL;
    bool now = colon && ++h->counter == atoll(colon + 1);
    *done = NULL;
    if (now && strncmp(kind, "fails", 5) == 0)
        return h->host->fail(h->host, ZDS_ERR_IO, "the disk is worn");
    if (now && strncmp(kind, "late", 4) == 0)
        return fail_late(h->host, done);
    if (now && strncmp(kind, "forgets", 7) == 0 && heap_is_write(c))
        return ZDS_OK;
    zds_status status = heap_copy(self, c, done);
    if (now && !status && strncmp(kind, "flips", 5) == 0)
        heap_at(&c->to)[c->bytes / 2] ^= 4;
    return status;
}

HEAP_BUT(.copy = copy);
