/* Events of the host's, for a plugin's call to wait for. */
#include "late.h"

static zds_status late_wait(zds_event *event)
{
    late_event *e = (late_event *)(void *)event;
    pthread_mutex_lock(&e->lock);
    if (!e->done && e->work)
        e->work(e->arg);
    e->done = true;
    pthread_mutex_unlock(&e->lock);
    return e->status;
}

static zds_status late_test(zds_event *event, int32_t *done)
{
    *done = 1; /* testing moves the work forward, all the way */
    return late_wait(event);
}

static void late_release(zds_event *event)
{
    (void)event;
}

void late_init(late_event *late, void (*work)(void *arg), void *arg)
{
    static const zds_event_ops ops = {.struct_size = sizeof ops,
                                      .flags = ZDS_EVENT_ANY_THREAD,
                                      .test = late_test,
                                      .wait = late_wait,
                                      .release = late_release};
    *late =
        (late_event){.base = {&ops}, .work = work, .arg = arg, .lock = PTHREAD_MUTEX_INITIALIZER};
}
