/* Signals that end the program, held back while files are written. */
#include "signals.h"

#include <signal.h>

static volatile sig_atomic_t waiting;

static void remember(int number)
{
    waiting = number;
}

static void handle(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

void signals_hold(void)
{
    handle(remember);
}

void signals_resume(void)
{
    handle(SIG_DFL);
    if (waiting)
        raise(waiting);
}
