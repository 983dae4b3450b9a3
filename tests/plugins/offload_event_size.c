/* What can be done with its events does not say how long it is. */
#include "heap_tier.h"

static zds_status event_test(zds_event *event, int32_t *done)
{
    (void)event;
    *done = 1;
    return ZDS_OK;
}

static zds_status event_wait(zds_event *event)
{
    (void)event;
    return ZDS_OK;
}

static void event_release(zds_event *event)
{
    (void)event;
}

static const zds_event_ops event_ops = {
    .test = event_test, .wait = event_wait, .release = event_release};
static zds_event event = {&event_ops};

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    zds_status status = heap_copy(self, c, done);
    if (!status)
        *done = &event;
    return status;
}

HEAP_BUT(.copy = copy);
