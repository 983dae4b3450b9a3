/* Leaves a thread behind. */
#include <pthread.h>
#include <unistd.h>

#include "momentum.h"

static void *sleep_on(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, sleep_on, NULL) != 0)
        return host->fail(host, ZDS_ERR_MEMORY, "no thread");
    return momentum_create(host, options, env, self);
}

MOMENTUM_BUT(.create = create);
