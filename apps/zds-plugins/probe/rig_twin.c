/* A run in a process of its own, so that nothing that earlier instances have left in static
 * variables can reach it. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "plugin/fault.h"
#include "rig.h"

enum { TWIN_BYTES = 32 << 20, TWIN_TEXT = 1024 };
static const uintptr_t ELSEWHERE = (uintptr_t)0x2340 << 32; /* no sanitizer has its shadow there */
enum { TWIN_DIED = 0, TWIN_DONE = 1, TWIN_REFUSED = 2, TWIN_FAILED = 3, TWIN_STOPPED = 4 };

/* Both processes see it. */
typedef struct picture {
    int32_t how;
    char text[TWIN_TEXT];
    int64_t at; /* when its fault was found, in ns */
    int collectives;
    char data[]; /* all arrays of the rig */
} picture;

struct twin {
    rig_setup setup;
    picture *shared;
    int64_t step;
    pid_t pid;
};

static const rig_cut whole = {0};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Copies an array into the picture, or out of it. Returns where the next one is. */
static size_t copy_area(picture *shared, size_t at, const area *a, bool out)
{
    if (at + a->bytes > TWIN_BYTES - sizeof *shared)
        abort(); /* TWIN_BYTES is too small: a fault of the rig's */
    if (a->bytes && out)
        memcpy(a->data, shared->data + at, a->bytes);
    else if (a->bytes)
        memcpy(shared->data + at, a->data, a->bytes);
    return at + a->bytes;
}

static void copy_rig(picture *shared, const rig *r, bool out)
{
    size_t at = 0;
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        const rig_param *p = &r->params[i];
        at = copy_area(shared, at, p->master, out);
        at = copy_area(shared, at, p->output, out);
        for (uint32_t s = 0; s < p->needs.state_count; s++)
            at = copy_area(shared, at, p->states[s], out);
    }
}

static void run_child(twin *t, bench *b, int count)
{
    rig r = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (t->setup.memory != RIG_AS_IT_COMES)
        alloc_fill(t->setup.memory == RIG_ZEROS ? 0 : 0xff);
    if (t->setup.memory == RIG_ONES)
        area_begin_at(ELSEWHERE);
    t->shared->how = rig_accepts(b, &t->setup) ? TWIN_DONE : TWIN_REFUSED;
    if (t->shared->how == TWIN_REFUSED)
        _exit(0);
    t->shared->how = TWIN_DIED;
    char *fault = rig_open(&r, b, &t->setup);
    if (!fault)
        fault = rig_steps(&r, count, &whole);
    t->shared->collectives = r.collectives;
    if (fault) {
        t->shared->at = now_ns();
        strncpy(t->shared->text, fault, TWIN_TEXT - 1);
    } else
        copy_rig(t->shared, &r, false);
    if (!fault && t->setup.port)
        rig_close(&r); /* the other ranks are told that it leaves */
    t->shared->how = fault ? TWIN_FAILED : TWIN_DONE;
    _exit(0);
}

twin *twin_start(bench *b, const rig_setup *setup, int count)
{
    twin *t = calloc(1, sizeof *t);
    void *map = mmap(NULL, TWIN_BYTES, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!t || map == MAP_FAILED)
        abort(); /* no memory for a check */
    *t = (twin){*setup, map, count, 0};
    t->pid = fork();
    if (t->pid == 0)
        run_child(t, b, count);
    return t;
}

void twins_wait(twin *const *twins, int32_t count)
{
    bool stopping = false;
    int32_t running = 0;
    for (int32_t k = 0; k < count; k++)
        running += twins[k]->pid > 0;
    while (running) { /* the plugin may have children of its own, which are not waited for */
        int status;
        const pid_t ended = waitpid(-1, &status, 0);
        if (ended < 0 && errno == EINTR)
            continue;
        if (ended < 0)
            return;
        for (int32_t k = 0; k < count; k++) {
            if (twins[k]->pid != ended)
                continue;
            twins[k]->pid = 0;
            running--;
            if (stopping && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
                twins[k]->shared->how = TWIN_STOPPED;
            stopping = stopping || twins[k]->shared->how != TWIN_DONE;
        }
        for (int32_t k = 0; stopping && k < count; k++)
            if (twins[k]->pid > 0)
                kill(twins[k]->pid, SIGKILL);
    }
}

twin *twin_run(bench *b, const rig_setup *setup, int count)
{
    twin *t = twin_start(b, setup, count);
    twins_wait(&t, 1);
    return t;
}

void twin_free(twin *t)
{
    if (t)
        munmap(t->shared, TWIN_BYTES);
    free(t);
}

bool twin_refused(const twin *t)
{
    return t->shared->how == TWIN_REFUSED;
}

int64_t twin_fault_at(const twin *t)
{
    return t->shared->at;
}

bool twin_stopped(const twin *t)
{
    return t->shared->how == TWIN_STOPPED;
}

int twin_collectives(const twin *t)
{
    return t->shared->collectives;
}

char *twin_load(const twin *t, rig *r, bench *b)
{
    if (t->shared->how != TWIN_DONE)
        return fault_format("%s", t->shared->how == TWIN_FAILED ? t->shared->text
                                  : t->shared->how == TWIN_REFUSED
                                      ? "create refuses in one process what it accepts in another"
                                      : "its process ended in the middle of a step");
    char *fault = rig_open(r, b, &t->setup);
    if (!fault)
        copy_rig(t->shared, r, true);
    r->step = t->step;
    return fault;
}
