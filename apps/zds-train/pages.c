/* Large blocks of memory, straight from the system. */
#include "pages.h"

#include <sys/mman.h>

void *pages_take(size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    (void)madvise(pages, bytes, MADV_HUGEPAGE); /* refused where there are none */
    return pages;
}

void pages_give(void *pages, size_t bytes)
{
    if (pages)
        munmap(pages, bytes);
}
