/* Of copies in flight it carries out the last alone. */
#include "heap_tier.h"

typedef struct late {
    zds_event base;
    zds_copy copy;
    heap *self;
    int64_t number;
} late;

static zds_status late_wait(zds_event *event)
{
    late *l = (late *)(void *)event;
    zds_event *done;
    if (l->number < l->self->counter && l->copy.bytes > 16384)
        return ZDS_OK;
    return heap_copy(l->self, &l->copy, &done);
}

static zds_status late_test(zds_event *event, int32_t *done)
{
    *done = 1;
    return late_wait(event);
}

static void late_release(zds_event *event)
{
    free(event);
}

static const zds_event_ops late_ops = {
    .struct_size = sizeof late_ops, .test = late_test, .wait = late_wait, .release = late_release};

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    if (!heap_is_write(c))
        return heap_copy(self, c, done);
    late *l = malloc(sizeof *l);
    if (!l)
        return ZDS_ERR_MEMORY;
    *l = (late){{&late_ops}, *c, self, ++((heap *)self)->counter};
    zds_status status = heap_wait(c);
    l->copy.wait_count = 0;
    *done = &l->base;
    return status;
}

HEAP_BUT(.copy = copy);
