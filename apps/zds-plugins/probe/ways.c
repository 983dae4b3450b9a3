/* How a thread computes, and which signals reach it and what they do. */
#include "ways.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "plugin/fault.h"

/* Volatile, so that the thread computes these and not the compiler. */
static bool takes_for_zero(void)
{
    volatile float least = 0x1p-126f, below = 0x1p-127f, half = 0.5f, two = 2;
    const volatile float out = least * half, in = below * two;
    return out == 0 || in == 0;
}

ways ways_now(void)
{
    ways w = {.rounding = fegetround(), .flushes = takes_for_zero()};
    sigset_t blocked;
    sigemptyset(&blocked);
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    for (int s = 1; s < WAYS_SIGNALS; s++) {
        struct sigaction action = {0};
        sigaction(s, NULL, &action);
        w.handlers[s] = action.sa_handler; /* or sa_sigaction, which is in the same place */
        w.blocked |= (unsigned long)(sigismember(&blocked, s) == 1) << s;
    }
    return w;
}

char *ways_changed(const ways *before)
{
    const ways now = ways_now();
    if (now.rounding != before->rounding)
        return fault_format("the thread rounds otherwise than before (fesetround)");
    if (now.flushes != before->flushes)
        return fault_format("the thread takes the smallest numbers for zero (as -ffast-math makes "
                            "it)");
    if (now.blocked != before->blocked)
        return fault_format("other signals are blocked than before");
    for (int s = 1; s < WAYS_SIGNALS; s++)
        if (now.handlers[s] != before->handlers[s])
            return fault_format("signal %d (%s) does something else than before: signals are the "
                                "program's",
                                s, strsignal(s));
    return NULL;
}
