/* Loads a plugin's file into this process, by libltdl. */
#include "plugin/load.h"

#include <dlfcn.h>
#include <fenv.h>
#include <ltdl.h>
#include <pthread.h>
#include <stdlib.h>

#include "plugin/descriptor.h"
#include "plugin/fault.h"

/* libltdl keeps its modules and last error in globals. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *find_symbol(void *handle, const char *symbol)
{
    return lt_dlsym(handle, symbol);
}

static char *trouble(void)
{
    const char *text = lt_dlerror();
    return fault_format("cannot be loaded: %s", text ? text : "libltdl does not say why");
}

/* lt_dlinit has been called. */
static char *open_module(const char *path, lt_dlhandle *module)
{
    /* libltdl binds lazily and loses the loader's message: bind now and here, so that a missing
     * symbol is an error of the opening and not a crash in the middle of a step. */
    void *bound = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!bound)
        return fault_format("cannot be loaded: %s", fault_of_loader(path));
    lt_dladvise advice;
    *module = NULL;
    if (lt_dladvise_init(&advice) == 0) {
        lt_dladvise_local(&advice);
        *module = lt_dlopenadvise(path, advice);
        lt_dladvise_destroy(&advice);
    }
    char *fault = *module ? NULL : trouble();
    dlclose(bound);
    return fault;
}

char *load_open(const char *path, void **handle, const zds_plugin *const **plugins)
{
    lt_dlhandle module = NULL;
    char *fault;
    /* -ffast-math links code that has the loading thread take the smallest numbers for zero, which
     * would be the whole engine's way of computing from here on. */
    fenv_t ways;
    fegetenv(&ways);
    pthread_mutex_lock(&lock);
    if (lt_dlinit() != 0) {
        fault = trouble();
    } else {
        fault = open_module(path, &module);
        if (!fault)
            fault = descriptor_symbol(find_symbol, module, plugins);
        if (fault) {
            if (module)
                lt_dlclose(module);
            lt_dlexit();
        }
    }
    pthread_mutex_unlock(&lock);
    fesetenv(&ways);
    *handle = fault ? NULL : module;
    return fault;
}

void load_close(void *handle)
{
    if (!handle)
        return;
    pthread_mutex_lock(&lock);
    lt_dlclose(handle);
    lt_dlexit();
    pthread_mutex_unlock(&lock);
}
