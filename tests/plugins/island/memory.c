/* Memory with two addresses: one to be given out, without rights, and the island's own view. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "island.h"

typedef struct area {
    struct area *next;
    char *address, *view;
    uint64_t bytes, mapped;
} area;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static area *areas;

/* Both mappings, of the same pages. */
static bool map_twice(area *a)
{
    int fd = memfd_create("island", MFD_CLOEXEC);
    if (fd < 0)
        return false;
    a->address = a->view = MAP_FAILED;
    if (ftruncate(fd, (off_t)a->mapped) == 0) {
        a->address = mmap(NULL, a->mapped, PROT_NONE, MAP_SHARED, fd, 0);
        a->view = mmap(NULL, a->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    close(fd);
    if (a->address != MAP_FAILED && a->view != MAP_FAILED)
        return true;
    if (a->address != MAP_FAILED)
        munmap(a->address, a->mapped);
    if (a->view != MAP_FAILED)
        munmap(a->view, a->mapped);
    return false;
}

void *island_alloc(uint64_t bytes)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    area *a = bytes < (uint64_t)1 << 46 ? calloc(1, sizeof *a) : NULL;
    if (!a)
        return NULL;
    a->bytes = bytes;
    a->mapped = (bytes + page - 1) / page * page;
    if (!map_twice(a)) {
        free(a);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    a->next = areas;
    areas = a;
    pthread_mutex_unlock(&lock);
    return a->address;
}

void island_free(void *address)
{
    area *found = NULL;
    pthread_mutex_lock(&lock);
    for (area **link = &areas; *link && !found; link = &(*link)->next)
        if ((*link)->address == address) {
            found = *link;
            *link = found->next;
            break;
        }
    pthread_mutex_unlock(&lock);
    if (!found)
        return;
    munmap(found->address, found->mapped);
    munmap(found->view, found->mapped);
    free(found);
}

/* With the lock. */
static const area *find(const char *address)
{
    for (const area *a = areas; a; a = a->next)
        if (address >= a->address && address < a->address + a->mapped)
            return a;
    return NULL;
}

void *island_view(const void *address)
{
    const char *at = address;
    pthread_mutex_lock(&lock);
    const area *a = find(at);
    void *view = a ? a->view + (at - a->address) : (void *)(uintptr_t)address;
    pthread_mutex_unlock(&lock);
    return view;
}

void *island_view_of_ours(const void *address, const char *field)
{
    /* What is empty may lie behind the last byte. */
    if (address && !island_owns(address, 0) && !island_owns((const char *)address - 1, 1)) {
        fprintf(stderr, "island: %s at %p is not in the island's memory\n", field, address);
        abort();
    }
    return island_view(address);
}

void *island_address(const void *view)
{
    const char *at = view;
    void *address = (void *)(uintptr_t)view;
    pthread_mutex_lock(&lock);
    for (const area *a = areas; a; a = a->next)
        if (at >= a->view && at < a->view + a->mapped)
            address = a->address + (at - a->view);
    pthread_mutex_unlock(&lock);
    return address;
}

bool island_owns(const void *address, uint64_t bytes)
{
    const char *at = address;
    pthread_mutex_lock(&lock);
    const area *a = find(at);
    const uint64_t before = a ? (uint64_t)(at - a->address) : 0;
    bool owns = a && before <= a->bytes && bytes <= a->bytes - before;
    pthread_mutex_unlock(&lock);
    return owns;
}
