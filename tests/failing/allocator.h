/* An allocator that fails one chosen allocation, and knows who holds what it gave.
 *
 * malloc and its like of this program come before the C library's, for plugins that are opened by
 * dlopen too, and before AddressSanitizer's, which is called in turn. mmap is among them for what
 * is anonymous. Counted are allocations between failing_start and failing_stop, of all threads; the
 * one numbered `failing_at` (from 1) fails. Those of libraries that end the process where there is
 * no memory, or are no part of zds, are passed on uncounted: see `spared`. */
#ifndef TESTS_FAILING_ALLOCATOR_H
#define TESTS_FAILING_ALLOCATOR_H

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(BEFORE_ADDRESS_SANITIZER)
#define REAL(name) __interceptor_##name
#else
#define REAL(name) __libc_##name
#endif

void *REAL(malloc)(size_t bytes);
void *REAL(calloc)(size_t n, size_t bytes);
void *REAL(realloc)(void *pointer, size_t bytes);
void *REAL(memalign)(size_t align, size_t bytes);
void REAL(free)(void *pointer);

static atomic_bool failing_on;
static atomic_long failing_count;      /* allocations since failing_start */
static long failing_at;                /* the one that fails; 0: none */
static void *failing_site;             /* who of us asked for it */
static bool failing_direct;            /* ..and not the C library on their behalf */
static _Thread_local bool failing_out; /* the test's own allocations */
static bool failing_tells;             /* who asked for each; slow */

/* The file that holds an address, "" if there is none. */
static const char *file_of(const void *address)
{
    Dl_info info;
    const char *path = dladdr(address, &info) && info.dli_fname ? info.dli_fname : "";
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Counted are our own, and those that the C library and cJSON make for us. Other libraries end the
 * process where there is no memory (ld.so for thread-local memory, libgomp, C++ under oneDNN by an
 * exception that nobody catches), crash (libhwloc, libltdl in lt_dlinit), or lose some. */
static bool spared(const void *site)
{
    const char *file = file_of(site);
    if (strncmp(file, "lib", 3) != 0)
        return strncmp(file, "ld-", 3) == 0;
    return strncmp(file, "libc.", 5) != 0 && strncmp(file, "libcjson.", 9) != 0 &&
           strncmp(file, "libasan.", 8) != 0;
}

/* The nearest caller that is ours: this program or a plugin. */
static void *own_caller(void *site)
{
    void *frames[24];
    bool before = failing_out;
    failing_out = true;
    int count = backtrace(frames, 24);
    failing_out = before;
    for (int i = 3; i < count; i++) {
        const char *file = file_of(frames[i]);
        if (strncmp(file, "lib", 3) != 0 && strncmp(file, "ld-", 3) != 0)
            return frames[i];
    }
    return site;
}

/* === what is held: pointers and who asked for them, by hash === */

enum { HELD_SLOTS = 1 << 16 };
static struct {
    void *pointer, *site;
} held[HELD_SLOTS];
static atomic_flag held_lock = ATOMIC_FLAG_INIT;
static long held_count;

static void held_enter(void)
{
    while (atomic_flag_test_and_set(&held_lock))
        ;
}

static void held_leave(void)
{
    atomic_flag_clear(&held_lock);
}

static size_t held_slot(const void *pointer)
{
    return (size_t)((uintptr_t)pointer * 0x9e3779b97f4a7c15ULL >> 40) % HELD_SLOTS;
}

static void held_add(void *pointer, void *site)
{
    held_enter();
    if (held_count >= HELD_SLOTS / 2)
        abort();
    size_t i = held_slot(pointer);
    while (held[i].pointer)
        i = (i + 1) % HELD_SLOTS;
    held[i].pointer = pointer;
    held[i].site = site;
    held_count++;
    held_leave();
}

static void held_remove(const void *pointer)
{
    held_enter();
    size_t i = held_slot(pointer);
    while (held[i].pointer && held[i].pointer != pointer)
        i = (i + 1) % HELD_SLOTS;
    if (held[i].pointer) {
        held_count--;
        for (size_t gap = i, next = (i + 1) % HELD_SLOTS;; next = (next + 1) % HELD_SLOTS) {
            if (!held[next].pointer) {
                held[gap].pointer = NULL;
                break;
            }
            size_t home = held_slot(held[next].pointer);
            if ((next - home) % HELD_SLOTS >= (next - gap) % HELD_SLOTS) {
                held[gap] = held[next];
                gap = next;
            }
        }
    }
    held_leave();
}

/* === the allocator === */

static bool fails(void *site)
{
    if (!atomic_load(&failing_on) || failing_out || spared(site))
        return false;
    if (atomic_fetch_add(&failing_count, 1) + 1 != failing_at)
        return false;
    failing_site = own_caller(site);
    failing_direct = strncmp(file_of(site), "libc.", 5) != 0;
    errno = ENOMEM;
    return true;
}

static void *given(void *pointer, void *site)
{
    if (pointer && atomic_load(&failing_on) && !failing_out && !spared(site))
        held_add(pointer, failing_tells ? own_caller(site) : site);
    return pointer;
}

#define EXPORTED __attribute__((visibility("default")))
#define SITE     __builtin_return_address(0)

EXPORTED void *malloc(size_t bytes)
{
    return fails(SITE) ? NULL : given(REAL(malloc)(bytes), SITE);
}

EXPORTED void *calloc(size_t n, size_t bytes)
{
    return fails(SITE) ? NULL : given(REAL(calloc)(n, bytes), SITE);
}

static void *again(void *pointer, size_t bytes, void *site)
{
    if (fails(site))
        return NULL;
    if (pointer)
        held_remove(pointer);
    return given(REAL(realloc)(pointer, bytes), site);
}

EXPORTED void *realloc(void *pointer, size_t bytes)
{
    return again(pointer, bytes, SITE);
}

EXPORTED void *reallocarray(void *pointer, size_t n, size_t bytes)
{
    size_t all;
    if (__builtin_mul_overflow(n, bytes, &all)) {
        errno = ENOMEM;
        return NULL;
    }
    return again(pointer, all, SITE);
}

EXPORTED void *memalign(size_t align, size_t bytes)
{
    return fails(SITE) ? NULL : given(REAL(memalign)(align, bytes), SITE);
}

EXPORTED void *aligned_alloc(size_t align, size_t bytes)
{
    return fails(SITE) ? NULL : given(REAL(memalign)(align, bytes), SITE);
}

EXPORTED int posix_memalign(void **pointer, size_t align, size_t bytes)
{
    void *made = fails(SITE) ? NULL : given(REAL(memalign)(align, bytes), SITE);
    if (made)
        *pointer = made;
    return made ? 0 : ENOMEM;
}

static char *copied(const char *text, size_t length, void *site)
{
    char *copy = fails(site) ? NULL : given(REAL(malloc)(length + 1), site);
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = '\0';
    }
    return copy;
}

EXPORTED char *strdup(const char *text)
{
    return copied(text, strlen(text), SITE);
}

EXPORTED char *strndup(const char *text, size_t most)
{
    return copied(text, strnlen(text, most), SITE);
}

EXPORTED void free(void *pointer)
{
    if (pointer)
        held_remove(pointer);
    REAL(free)(pointer);
}

EXPORTED void *mmap(void *address, size_t bytes, int rights, int flags, int fd, off_t offset)
{
    if (fd < 0 && fails(SITE))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, address, bytes, rights, flags, fd, offset);
}

#if defined(BEFORE_ADDRESS_SANITIZER)
/* AddressSanitizer asks for the stack of each thread that begins, and ends the process where the C
 * library has no memory to answer. */
EXPORTED int pthread_getattr_np(pthread_t thread, pthread_attr_t *attr)
{
    int (*next)(pthread_t, pthread_attr_t *);
    bool before = failing_out;
    failing_out = true;
    *(void **)&next = dlsym(RTLD_NEXT, "pthread_getattr_np");
    int error = next(thread, attr);
    failing_out = before;
    return error;
}
#endif

/* === use === */

static inline void failing_start(long at)
{
    void *frame;
    backtrace(&frame, 1); /* loads what it needs */
    failing_at = at;
    failing_site = NULL;
    failing_direct = false;
    atomic_store(&failing_count, 0);
    atomic_store(&failing_on, true);
}

/* What was given since failing_start and is held still. */
static inline long failing_stop(void)
{
    atomic_store(&failing_on, false);
    return held_count;
}

static void nothing(void)
{
}

/* The C library keeps what is to be called at the end, as libraries that are loaded ask it to, in
 * blocks that it never gives back: begins a new one, with room for all that is to come. */
static inline void failing_warm_up(void)
{
    failing_start(0);
    while (!atomic_load(&failing_count) && atexit(nothing) == 0)
        ;
    failing_stop();
    memset(held, 0, sizeof held);
    held_count = 0;
}

/* "file+offset" of a call, as addr2line takes it. */
static inline void site_text(const void *site, char *text, size_t size)
{
    Dl_info info = {0};
    if (!site || !dladdr(site, &info))
        snprintf(text, size, "%p", site);
    else
        snprintf(text, size, "%s+0x%zx%s%s", file_of(site),
                 (size_t)((const char *)site - (const char *)info.dli_fbase),
                 info.dli_sname ? " " : "", info.dli_sname ? info.dli_sname : "");
}

/* One of those that hold something. */
static inline const void *held_site(void)
{
    for (size_t i = 0; i < HELD_SLOTS; i++)
        if (held[i].pointer)
            return held[i].site;
    return NULL;
}

#endif
