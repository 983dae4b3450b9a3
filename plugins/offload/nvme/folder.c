/* The folder of one open tier, locked while its process lives, and the files in it. What a process
 * left that died is known by its name, its rights and what it holds, and by a lock that is free. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "nvme.h"

static const char PREFIX[] = "zds-nvme-", LOCK[] = "lock", BLOCK[] = "block-";
enum { DIGITS = 16, PIECE = 1 << 20, LEAST_DIRECT = 512, MOST_ALIGNMENT = 65536 };

/* === names === */

static bool all_in(const char *text, const char *set)
{
    return *text && strspn(text, set) == strlen(text);
}

static bool is_folder_name(const char *name)
{
    const size_t head = sizeof PREFIX - 1;
    return strncmp(name, PREFIX, head) == 0 && strlen(name) == head + DIGITS &&
           all_in(name + head, "0123456789abcdef");
}

static bool is_file_name(const char *name)
{
    const size_t head = sizeof BLOCK - 1;
    return strcmp(name, LOCK) == 0 ||
           (strncmp(name, BLOCK, head) == 0 && all_in(name + head, "0123456789"));
}

static void block_name(uint64_t number, char name[NAME_MOST])
{
    snprintf(name, NAME_MOST, "%s%llu", BLOCK, (unsigned long long)number);
}

void folder_show(const tier *t, uint64_t number, char shown[SHOWN_MOST])
{
    const folder *f = &t->folder;
    char name[NAME_MOST];
    block_name(number, name);
    snprintf(shown, SHOWN_MOST, "%s/%s/%s", f->path, f->name, name);
}

const char *folder_advice(int error)
{
    switch (error) {
    case ENOSPC:
        return "make room there, or name a folder with more by nvme_path";
    case EDQUOT:
        return "make room within the quota, or name another folder by nvme_path";
    case EFBIG:
        return "the file system or the process's limit (ulimit -f) allows no file of that size";
    case EACCES:
    case EPERM:
    case EROFS:
        return "name a folder that this user can write by nvme_path";
    default:
        return "see what the system says of that disk (dmesg), or name another folder by nvme_path";
    }
}

static zds_status failed(const tier *t, const char *what, const char *name)
{
    const int error = errno;
    const zds_status status = error == ENOENT ? ZDS_ERR_NOT_FOUND : ZDS_ERR_IO;
    const char *advice = error == ENOENT || error == ENOTDIR
                             ? "nvme_path must name a folder that is there"
                             : folder_advice(error);
    return t->host->fail(t->host, status, "rank %d: %s %s%s%s: %s; %s", t->rank, what,
                         t->folder.path, name ? "/" : "", name ? name : "", strerror(error),
                         advice);
}

/* === what was left behind === */

static bool is_own_file(int within, const char *name)
{
    struct stat s;
    return is_file_name(name) && fstatat(within, name, &s, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISREG(s.st_mode) && s.st_uid == geteuid() && s.st_nlink == 1;
}

/* For each file: `each` is called. False at the first for which it says so. */
static bool walk(int within, bool (*each)(int within, const char *name))
{
    const int again = openat(within, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *all = again >= 0 ? fdopendir(again) : NULL;
    bool good = all != NULL;
    for (const struct dirent *e; good && (e = readdir(all));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            good = each(within, e->d_name);
    if (all)
        closedir(all);
    else if (again >= 0)
        close(again);
    return good;
}

static bool remove_block(int within, const char *name)
{
    return strcmp(name, LOCK) == 0 || unlinkat(within, name, 0) == 0 || errno == ENOENT;
}

/* The lock goes last: without it the folder is nobody's. */
static void remove_all(int parent, int within, const char *name)
{
    if (walk(within, remove_block) && (unlinkat(within, LOCK, 0) == 0 || errno == ENOENT))
        (void)unlinkat(parent, name, AT_REMOVEDIR);
}

/* A lock that is taken here, of a file that is still there. Its descriptor, or -1. */
static int take_lock(int within, int flags)
{
    struct stat s;
    const int fd = openat(within, LOCK, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | flags, 0600);
    if (fd >= 0 && fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
        fstat(fd, &s) == 0 && s.st_nlink == 1)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static int open_folder(int parent, const char *name)
{
    struct stat s;
    const int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &s) == 0 && s.st_uid == geteuid() && (s.st_mode & 0777) == 0700)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Of a process that died; others may be about it as well. */
static void remove_left(int parent, const char *name)
{
    const int fd = open_folder(parent, name);
    if (fd < 0)
        return;
    const bool own = walk(fd, is_own_file);
    const int lock = own ? take_lock(fd, 0) : -1;
    if (lock >= 0)
        remove_all(parent, fd, name);
    else if (own && faccessat(fd, LOCK, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
        (void)unlinkat(parent, name, AT_REMOVEDIR); /* it died before it had a lock */
    if (lock >= 0)
        close(lock);
    close(fd);
}

static bool remove_if_left(int parent, const char *name)
{
    if (is_folder_name(name))
        remove_left(parent, name);
    return true;
}

/* === open and close === */

/* A folder that is locked. False, and errno is EAGAIN, where somebody took it for one that was left
 * before it was locked. */
static bool make_folder(folder *f)
{
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return false;
    snprintf(f->name, sizeof f->name, "%s%016llx", PREFIX, (unsigned long long)random);
    if (mkdirat(f->parent, f->name, 0700) != 0) {
        errno = errno == EEXIST ? EAGAIN : errno;
        f->name[0] = '\0';
        return false;
    }
    f->fd = openat(f->parent, f->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (f->fd >= 0)
        (void)fchmod(f->fd, 0700); /* whatever umask took */
    errno = 0;
    f->lock = f->fd >= 0 ? take_lock(f->fd, O_CREAT) : -1;
    if (f->lock >= 0)
        return true;
    const int error = errno == 0 || errno == ENOENT || errno == EWOULDBLOCK ? EAGAIN : errno;
    if (f->fd >= 0) {
        (void)unlinkat(f->fd, LOCK, 0);
        close(f->fd);
        f->fd = -1;
    }
    (void)unlinkat(f->parent, f->name, AT_REMOVEDIR);
    errno = error;
    return false;
}

zds_status folder_open(tier *t, const char *path)
{
    enum { TRIES = 100 };
    folder *f = &t->folder;
    const size_t bytes = strlen(path) + 1;
    f->path = t->host->alloc(t->host, bytes, 0);
    if (!f->path)
        return t->host->fail(t->host, ZDS_ERR_MEMORY, "no memory for a path");
    memcpy(f->path, path, bytes);
    f->parent = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->parent < 0)
        return failed(t, "the folder", NULL);
    (void)walk(f->parent, remove_if_left);
    bool made = false;
    errno = EAGAIN;
    for (int i = 0; i < TRIES && !made && errno == EAGAIN; i++)
        made = make_folder(f);
    return made ? ZDS_OK : failed(t, "a folder of its own in", NULL);
}

void folder_close(tier *t)
{
    folder *f = &t->folder;
    if (f->lock >= 0 && getpid() == t->process && unlinkat(f->fd, LOCK, 0) == 0)
        (void)unlinkat(f->parent, f->name, AT_REMOVEDIR); /* the files went with their blocks */
    const int all[] = {f->lock, f->fd, f->parent};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] >= 0)
            close(all[i]);
    t->host->free(t->host, f->path);
}

/* === what the file system takes === */

/* By reading a hole at ever larger offsets, sizes and addresses. 0: none of them. */
static uint64_t tried_alignment(const tier *t, int fd)
{
    char *buffer = t->host->alloc(t->host, MOST_ALIGNMENT, MOST_ALIGNMENT);
    uint64_t found = 0;
    if (buffer && ftruncate(fd, (off_t)2 * MOST_ALIGNMENT) == 0)
        for (uint64_t a = LEAST_DIRECT; a <= MOST_ALIGNMENT / 2 && !found; a *= 2)
            if (pread(fd, buffer + a, a, (off_t)a) == (ssize_t)a)
                found = a;
    t->host->free(t->host, buffer);
    return found;
}

static bool is_power(uint64_t n)
{
    return n && !(n & (n - 1));
}

static void look(const tier *t, int fd, traits *found)
{
    struct statx s = {0};
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &s) == 0 && s.stx_mask & STATX_DIOALIGN) {
        found->alignment = s.stx_dio_offset_align;
        found->memory_alignment = s.stx_dio_mem_align;
    } else {
        found->alignment = found->memory_alignment = tried_alignment(t, fd);
    }
    found->direct = is_power(found->alignment) && is_power(found->memory_alignment);
}

/* The file system's block counts, too: of a part of one the rest is read and written as well, and
 * beside nobody else's. Without O_DIRECT it is a page for the same reason. */
zds_status folder_traits(tier *t)
{
    static const char name[] = "block-0";
    struct statvfs space;
    traits found = {0};
    const int plain = openat(t->folder.fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (plain < 0 || fstatvfs(plain, &space) != 0) {
        zds_status status = failed(t, "a file in", t->folder.name);
        if (plain >= 0) {
            close(plain);
            (void)unlinkat(t->folder.fd, name, 0);
        }
        return status;
    }
    const int fd = openat(t->folder.fd, name, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd >= 0)
        look(t, fd, &found);
    if (!found.direct)
        found = (traits){.alignment = (uint64_t)sysconf(_SC_PAGESIZE), .memory_alignment = 1};
    const uint64_t unit = space.f_frsize;
    if (found.direct && is_power(unit) && unit <= MOST_ALIGNMENT && unit > found.alignment)
        found.alignment = unit;
    if (found.memory_alignment > found.alignment)
        found.alignment = found.memory_alignment;
    t->traits = found;
    if (fd >= 0)
        close(fd);
    close(plain);
    (void)unlinkat(t->folder.fd, name, 0);
    return ZDS_OK;
}

/* === files === */

/* Where the file system cannot set space aside, zeros are written to all of it and brought to the
 * disk, which is when some of them first say that it is full. 0 or an errno. */
static int fill(const tier *t, int fd, uint64_t bytes)
{
    char *zeros = t->host->alloc(t->host, PIECE, 4096);
    int error = zeros ? 0 : ENOMEM;
    for (uint64_t done = 0; done < bytes && !error;) {
        const uint64_t n = bytes - done < PIECE ? bytes - done : PIECE;
        const ssize_t wrote = pwrite(fd, zeros, n, (off_t)done);
        if (wrote > 0)
            done += (uint64_t)wrote / t->traits.alignment * t->traits.alignment;
        if (wrote == 0 || (wrote > 0 && (uint64_t)wrote < t->traits.alignment))
            error = EIO;
        else if (wrote < 0 && errno != EINTR)
            error = errno;
    }
    t->host->free(t->host, zeros);
    return error || fdatasync(fd) == 0 ? error : errno;
}

/* 0 or an errno. More than is free is refused first: else others would find the disk full while
 * the file system tries. */
static int set_aside(const tier *t, int fd, uint64_t bytes)
{
    struct statvfs space;
    struct rlimit most;
    if (bytes > INT64_MAX)
        return EFBIG;
    if (getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur != RLIM_INFINITY &&
        bytes > most.rlim_cur) /* the system would send SIGXFSZ */
        return EFBIG;
    if (fstatvfs(fd, &space) == 0 && bytes / space.f_frsize > space.f_bavail)
        return ENOSPC;
    int error;
    do
        error = fallocate(fd, 0, 0, (off_t)bytes) == 0 ? 0 : errno;
    while (error == EINTR);
    return error == EOPNOTSUPP || error == ENOSYS ? fill(t, fd, bytes) : error;
}

zds_status folder_make_file(tier *t, uint64_t bytes, uint64_t *number, int *fd)
{
    char name[NAME_MOST], shown[SHOWN_MOST];
    const uint64_t unit = t->traits.alignment;
    *number = ++t->folder.files;
    block_name(*number, name);
    folder_show(t, *number, shown);
    const int direct = t->traits.direct ? O_DIRECT : 0;
    *fd = openat(t->folder.fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | direct, 0600);
    int error = *fd < 0 ? errno : 0;
    if (!error)
        error = set_aside(t, *fd, bytes > UINT64_MAX - unit ? bytes : round_up(bytes, unit));
    if (!error)
        return ZDS_OK;
    if (*fd >= 0)
        folder_remove_file(t, *number, *fd);
    const bool memory = error == ENOMEM;
    return t->host->fail(t->host, memory ? ZDS_ERR_MEMORY : ZDS_ERR_IO,
                         "rank %d: a file of %llu bytes, %s: %s; %s", t->rank,
                         (unsigned long long)bytes, shown, strerror(error),
                         memory ? "free memory" : folder_advice(error));
}

void folder_remove_file(tier *t, uint64_t number, int fd)
{
    char name[NAME_MOST];
    block_name(number, name);
    close(fd);
    if (getpid() == t->process)
        (void)unlinkat(t->folder.fd, name, 0);
}
