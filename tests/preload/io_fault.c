/* For LD_PRELOAD: the n-th read or write of files in a folder goes wrong on one rank.
 *
 * ZDS_TEST_IO="RANK CALL N HOW FOLDER": CALL is pread or pwrite, N counts from 1, HOW is kill (the
 * process, in the middle of the call), an errno's number, short (half of it), or flip (a bit of
 * what is read). There is no io_uring then, so that all goes by these calls. */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

static struct {
    char call[16], how[16], folder[PATH_MAX];
    long at;
    atomic_long count;
    int on;
} fault;

__attribute__((constructor)) static void read_fault(void)
{
    const char *text = getenv("ZDS_TEST_IO"), *own = getenv("RANK");
    int rank = -1;
    fault.on = text &&
               sscanf(text, "%d %15s %ld %15s %4095s", &rank, fault.call, &fault.at, fault.how,
                      fault.folder) == 5 &&
               rank == (own ? atoi(own) : 0);
}

static int is_there(int fd)
{
    char name[64], path[PATH_MAX];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    path[length > 0 ? length : 0] = '\0';
    return strncmp(path, fault.folder, strlen(fault.folder)) == 0;
}

static int is_due(int fd, const char *call)
{
    return fault.on && strcmp(call, fault.call) == 0 && is_there(fd) && ++fault.count == fault.at;
}

static ssize_t go_wrong(size_t *bytes)
{
    if (strcmp(fault.how, "kill") == 0)
        raise(SIGKILL);
    if (strcmp(fault.how, "short") == 0 || strcmp(fault.how, "flip") == 0) {
        *bytes = fault.how[0] == 's' && *bytes > 1 ? *bytes / 2 : *bytes;
        return 0;
    }
    errno = atoi(fault.how);
    return -1;
}

EXPORTED ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
{
    ssize_t (*next)(int, void *, size_t, off_t) = dlsym(RTLD_NEXT, "pread");
    int due = is_due(fd, "pread");
    if (due && go_wrong(&bytes) < 0)
        return -1;
    ssize_t got = next(fd, buffer, bytes, offset);
    if (due && got > 0 && strcmp(fault.how, "flip") == 0)
        ((char *)buffer)[got / 2] ^= 4;
    return got;
}

EXPORTED ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
    ssize_t (*next)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite");
    if (is_due(fd, "pwrite") && go_wrong(&bytes) < 0)
        return -1;
    return next(fd, buffer, bytes, offset);
}

int io_uring_queue_init(unsigned entries, void *ring, unsigned flags);
EXPORTED int io_uring_queue_init(unsigned entries, void *ring, unsigned flags)
{
    (void)entries, (void)ring, (void)flags;
    return -EPERM;
}
