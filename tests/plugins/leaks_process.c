/* Leaves a process behind, in a session of its own, that ends after a while. */
#include <signal.h>
#include <unistd.h>

#include "momentum.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    const pid_t pid = fork();
    if (pid < 0)
        return host->fail(host, ZDS_ERR_MEMORY, "no process");
    if (pid == 0) {
        setsid();
        for (int fd = 0; fd < 64; fd++)
            close(fd);
        signal(SIGALRM, SIG_DFL);
        alarm(3);
        pause();
        _exit(0);
    }
    return momentum_create(host, options, env, self);
}

MOMENTUM_BUT(.create = create);
