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

/* Path of the library that holds `address`, or NULL; its place in memory goes to *base. */
static const char *library_of(void *address, void **base)
{
    Dl_info info;
    if (!address || !dladdr(address, &info))
        return NULL;
    *base = info.dli_fbase;
    return info.dli_fname;
}

/* Who called exit: the first on the stack that is neither this program nor the C library. */
static const char *caller(void)
{
    enum { DEPTH = 64 };
    void *stack[DEPTH], *here = NULL, *libc = NULL, *base;
    int depth = backtrace(stack, DEPTH);
    library_of(stack[0], &here);
    library_of(dlsym(RTLD_NEXT, "exit"), &libc);
    for (int i = 1; i < depth; i++) {
        const char *path = library_of(stack[i], &base);
        if (path && base != here && base != libc)
            return path;
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
