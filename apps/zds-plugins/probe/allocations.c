/* Counts what the process allocates and frees, plugins included: malloc and its like of this
 * program come before the C library's. Under a sanitizer, which has its own, that calls hooks
 * instead. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static atomic_long live, watched;
static _Thread_local bool watching;
static int filled = -1; /* what fresh memory holds; -1: whatever it holds */

long alloc_live(void)
{
    return atomic_load(&live);
}

void alloc_watch(bool on)
{
    watching = on;
}

void alloc_fill(int byte)
{
    filled = byte;
}

long alloc_watched(void)
{
    return atomic_load(&watched);
}

static void count(long pieces)
{
    atomic_fetch_add_explicit(&live, pieces, memory_order_relaxed);
    if (watching)
        atomic_fetch_add_explicit(&watched, 1, memory_order_relaxed);
}

#if defined(__SANITIZE_THREAD__)
#define SANITIZES_THREADS
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SANITIZES_THREADS
#endif
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNDER_SANITIZER
#endif
#endif

#if !defined(SANITIZES_THREADS) /* whose calloc calls its hook when it has zeroed */
static void fill(void *pointer, size_t bytes)
{
    if (pointer && filled >= 0)
        memset(pointer, filled, bytes);
}
#endif

#if defined(UNDER_SANITIZER)

int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void *, size_t),
                                              void (*free_hook)(const volatile void *));

static void on_malloc(const volatile void *pointer, size_t bytes)
{
    count(pointer != NULL);
#if !defined(SANITIZES_THREADS)
    enum { CLEARED_LATER = 1 << 16 }; /* by ASan's calloc */
    if (bytes <= CLEARED_LATER)
        fill((void *)(uintptr_t)pointer, bytes);
#else
    (void)bytes, (void)filled;
#endif
}

static void on_free(const volatile void *pointer)
{
    count(pointer ? -1 : 0);
}

__attribute__((constructor)) static void install(void)
{
    __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
}

#else

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *pointer, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);
void __libc_free(void *pointer);

#define EXPORTED __attribute__((visibility("default")))

EXPORTED void *malloc(size_t bytes)
{
    void *made = __libc_malloc(bytes);
    fill(made, bytes);
    count(made != NULL);
    return made;
}

EXPORTED void *calloc(size_t n, size_t bytes)
{
    void *made = __libc_calloc(n, bytes);
    count(made != NULL);
    return made;
}

EXPORTED void *realloc(void *pointer, size_t bytes)
{
    void *made = __libc_realloc(pointer, bytes);
    if (!pointer)
        fill(made, bytes);
    count((made != NULL) - (pointer != NULL && (made || bytes == 0)));
    return made;
}

EXPORTED void *memalign(size_t align, size_t bytes);
EXPORTED void *memalign(size_t align, size_t bytes)
{
    void *made = __libc_memalign(align, bytes);
    fill(made, bytes);
    count(made != NULL);
    return made;
}

EXPORTED void *aligned_alloc(size_t align, size_t bytes)
{
    return memalign(align, bytes);
}

EXPORTED int posix_memalign(void **pointer, size_t align, size_t bytes)
{
    if (align < sizeof(void *) || (align & (align - 1)) != 0)
        return EINVAL;
    void *made = memalign(align, bytes);
    if (!made)
        return ENOMEM;
    *pointer = made;
    return 0;
}

EXPORTED void free(void *pointer)
{
    count(pointer ? -1 : 0);
    __libc_free(pointer);
}

#endif
