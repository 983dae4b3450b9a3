/* How a thread computes, which signals reach it and what they do, and what else is one for the
 * whole process. */
#include "ways.h"

#include <fenv.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "numbers.h"
#include "plugin/fault.h"

/* Volatile, so that the thread computes these and not the compiler. */
static bool takes_for_zero(void)
{
    volatile float least = 0x1p-126f, below = 0x1p-127f, half = 0.5f, two = 2;
    const volatile float out = least * half, in = below * two;
    return out == 0 || in == 0;
}

/* The end of the text counts as well, so that two texts are not taken for one. */
static uint64_t hash_text(uint64_t hash, const char *text)
{
    do
        hash = number_hash(hash ^ (unsigned char)*text);
    while (*text++);
    return hash;
}

static void look_at_process(ways *w)
{
    struct stat here = {0};
    stat(".", &here); /* a folder that is gone stays a 0 */
    w->device = here.st_dev;
    w->folder = here.st_ino;
    w->mask = umask(0); /* cannot be asked for in another way */
    umask(w->mask);
    const char *locale = setlocale(LC_ALL, NULL);
    w->locale = hash_text(0, locale ? locale : "");
    w->variables = 0;
    for (char *const *v = environ; v && *v; v++)
        w->variables = hash_text(w->variables, *v);
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
    look_at_process(&w);
    return w;
}

static char *process_changed(const ways *before, const ways *now)
{
    if (now->device != before->device || now->folder != before->folder)
        return fault_format("the process is in another folder than before (chdir): relative paths "
                            "are the program's");
    if (now->mask != before->mask)
        return fault_format("files are made with other rights than before (umask)");
    if (now->locale != before->locale)
        return fault_format("the process has another locale than before (setlocale)");
    if (now->variables != before->variables)
        return fault_format("the environment is another than before (setenv)");
    return NULL;
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
    return process_changed(before, &now);
}
