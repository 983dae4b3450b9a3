/* Memory between pages that cannot be touched, which remembers what it is, so that a plugin that
 * reaches beyond it is told where. */
#include "area.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "plugin/fault.h"

enum { MOST_AREAS = 1024, PATTERN = 0xa5 };

/* Global, since a signal's handler has nothing else to look at. */
static area *areas[MOST_AREAS];
static int answer_fd = -1;
static uintptr_t next_address; /* 0: the system's choice */

void area_begin_at(uintptr_t address)
{
    next_address = address;
}

/* sysconf takes its time. */
static size_t page_bytes(void)
{
    static size_t bytes;
    if (!bytes)
        bytes = (size_t)sysconf(_SC_PAGESIZE);
    return bytes;
}

static char *inner_start(const area *a)
{
    return a->map + page_bytes();
}

static size_t inner_bytes(const area *a)
{
    return a->map_bytes - 2 * page_bytes();
}

static void keep(area *a)
{
    for (int i = 0; i < MOST_AREAS; i++)
        if (!areas[i]) {
            areas[i] = a;
            return;
        }
}

static void forget(const area *a)
{
    for (int i = 0; i < MOST_AREAS; i++)
        if (areas[i] == a)
            areas[i] = NULL;
}

area *area_make(size_t bytes, bool tight, const char *what, const char *owner)
{
    size_t page = page_bytes(), inner = (bytes + page - 1) / page * page;
    area *a = calloc(1, sizeof *a);
    if (a) {
        a->map_bytes = inner + 2 * page;
        a->map =
            mmap((void *)next_address, a->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        next_address += next_address ? a->map_bytes : 0;
    }
    if (!a || a->map == MAP_FAILED ||
        (inner && mprotect(inner_start(a), inner, PROT_READ | PROT_WRITE) != 0)) {
        fprintf(stderr, "zds-plugin-check: no memory for %zu bytes under check\n", bytes);
        _exit(1);
    }
    snprintf(a->what, sizeof a->what, "%s%s%s", what, *owner ? " of " : "", owner);
    a->bytes = bytes;
    /* Fresh pages are zero: data is not touched, so that room costs nothing until it is used. */
    a->data = bytes ? inner_start(a) + (tight ? inner - bytes : 0) : NULL;
    memset(inner_start(a) + (tight ? 0 : bytes), PATTERN, inner - bytes);
    keep(a);
    return a;
}

void area_free(area *a)
{
    if (!a)
        return;
    forget(a);
    munmap(a->map, a->map_bytes);
    free(a);
}

void area_seal(area *a, bool sealed)
{
    if (inner_bytes(a))
        mprotect(inner_start(a), inner_bytes(a), sealed ? PROT_READ : PROT_READ | PROT_WRITE);
    a->sealed = sealed;
}

void area_retire(area *a)
{
    mprotect(a->map, a->map_bytes, PROT_NONE);
    a->retired = true;
}

char *area_fault(const area *a)
{
    const unsigned char *inner = (const unsigned char *)inner_start(a);
    const unsigned char *data = (const unsigned char *)a->data;
    for (size_t i = 0; i < inner_bytes(a); i++) {
        if (inner[i] == PATTERN || (inner + i >= data && inner + i < data + a->bytes))
            continue;
        bool before = inner + i < data;
        return fault_format(
            "wrote %zu bytes %s the %s of %zu bytes",
            before ? (size_t)(data - inner) - i : (size_t)(inner + i + 1 - data) - a->bytes,
            before ? "before the beginning of" : "past the end of", a->what, a->bytes);
    }
    return NULL;
}

/* Reading and writing can be told apart where the processor says which it was. */
static const char *verb(const void *context)
{
#if defined(__x86_64__)
    const ucontext_t *u = context;
    return u->uc_mcontext.gregs[REG_ERR] & 2 ? "wrote" : "read";
#else
    (void)context;
    return "reached";
#endif
}

/* The status "died" is for the parent, which knows where the check was.
 * snprintf is not promised to be safe here; it does not allocate for these formats, and the process
 * is lost anyway. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    char text[256];
    const char *at = info->si_addr, *how = verb(context);
    snprintf(text, sizeof text, "crashed: %s at address %p",
             number == SIGBUS ? "Bus error" : "Segmentation fault", info->si_addr);
    for (int i = 0; i < MOST_AREAS; i++) {
        const area *a = areas[i];
        if (!a || at < a->map || at >= a->map + a->map_bytes)
            continue;
        if (a->retired)
            snprintf(text, sizeof text,
                     "%s the %s of an earlier call: of pointers only those to zds_param, options "
                     "and host may be kept",
                     how, a->what);
        else if (a->sealed && a->data && at >= a->data && at < a->data + a->bytes)
            snprintf(text, sizeof text, "%s to the %s, which is not the plugin's to write", how,
                     a->what);
        else if (!a->data || at >= a->data + a->bytes)
            snprintf(text, sizeof text, "%s %zu bytes past the end of the %s of %zu bytes", how,
                     (size_t)(at - (a->data ? a->data + a->bytes : a->map)), a->what, a->bytes);
        else
            snprintf(text, sizeof text, "%s %zu bytes before the beginning of the %s", how,
                     (size_t)(a->data - at), a->what);
    }
    dprintf(answer_fd, "{\"status\":\"died\",\"text\":\"%s\"}\n", text);
    _exit(1);
}

void area_catch(int fd)
{
    static char stack[1 << 16]; /* so that an overflow of the stack can be told */
    const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    answer_fd = fd;
    sigaltstack(&other, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}
