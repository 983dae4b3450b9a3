/* Programs end by returning from main, and say so where a library ends them. */
#include "common/exits.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/fail.h"
#include "common/rank.h"

static atomic_bool done, told;
static pid_t watched; /* a forked child may end as it likes */

/* Who called exit: what stands on the stack behind the C library, which called this program. */
static const char *caller(void)
{
    enum { DEPTH = 64 };
    void *stack[DEPTH];
    Dl_info libc, at;
    int depth = backtrace(stack, DEPTH);
    bool inside = false;
    if (!dladdr(dlsym(RTLD_NEXT, "exit"), &libc))
        depth = 0;
    for (int i = 0; i < depth; i++) {
        bool known = dladdr(stack[i], &at) != 0;
        if (inside && known && at.dli_fbase != libc.dli_fbase)
            return at.dli_fname;
        inside |= known && at.dli_fbase == libc.dli_fbase;
    }
    return "a library";
}

static void refuse(void)
{
    if (done || getpid() != watched)
        return;
    atexit(refuse); /* for other threads that call exit now: they come here too, and wait */
    if (atomic_exchange(&told, true))
        for (;;)
            pause();
    zds_error error = ZDS_ERROR_INIT;
    fail(&error, ZDS_ERR_PLUGIN, "%s called exit, which ends the run before it is complete",
         caller());
    _exit(rank_failed(&error));
}

void exits_watch(void)
{
    watched = getpid();
    atexit(refuse);
}

int exits_done(int code)
{
    done = true;
    return code;
}
