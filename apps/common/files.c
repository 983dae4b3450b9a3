/* Small files: read whole, written whole. */
#include "common/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fail.h"

zds_status file_read(const char *path, size_t limit, char **text, size_t *size, zds_error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(error, errno == ENOENT ? ZDS_ERR_NOT_FOUND : ZDS_ERR_IO, "%s: %s", path,
                    strerror(errno));
    zds_status status = ZDS_OK;
    char *bytes = NULL;
    size_t have = 0;
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        status = fail(error, ZDS_ERR_FORMAT, "%s: is not a regular file", path);
    } else if ((uint64_t)info.st_size > limit) {
        status = fail(error, ZDS_ERR_FORMAT, "%s: has more than %zu bytes", path, limit);
    } else if (!(bytes = malloc((size_t)info.st_size + 1))) {
        status = fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", path);
    }
    while (!status && have < (size_t)info.st_size) {
        ssize_t n = read(fd, bytes + have, (size_t)info.st_size - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            status = fail(error, ZDS_ERR_IO, "%s: %s", path, strerror(errno));
        if (n <= 0)
            break;
        have += (size_t)n;
    }
    close(fd);
    if (status) {
        free(bytes);
        return status;
    }
    bytes[have] = '\0';
    *text = bytes;
    *size = have;
    return ZDS_OK;
}

zds_status file_target(const char *path, char **target, zds_error *error)
{
    struct stat info;
    char *real = realpath(path, NULL);
    if (!real && lstat(path, &info) == 0)
        return fail(error, ZDS_ERR_IO, "%s: cannot be followed: %s", path, strerror(errno));
    if (real && (stat(real, &info) != 0 || !S_ISREG(info.st_mode))) {
        free(real);
        return fail(
            error, ZDS_ERR_IO,
            "%s: is there and no regular file, and is not replaced by one; give another path",
            path);
    }
    *target = real ? real : strdup(path);
    return *target ? ZDS_OK : fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", path);
}

zds_status file_replace(const char *path, const char *text, size_t size, zds_error *error)
{
    char *temporary = NULL, *target;
    zds_status status = file_target(path, &target, error);
    if (status)
        return status;
    if (asprintf(&temporary, "%s.XXXXXX", target) < 0) {
        free(target);
        return fail(error, ZDS_ERR_MEMORY, "%s: there is no memory", path);
    }
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        status = fail(error, ZDS_ERR_IO, "%s: cannot be created: %s", path, strerror(errno));
        free(temporary);
        free(target);
        return status;
    }
    bool good = true;
    for (size_t done = 0; good && done < size;) {
        ssize_t n = write(fd, text + done, size - done);
        if (n > 0)
            done += (size_t)n;
        else
            good = n < 0 && errno == EINTR;
    }
    mode_t mask = umask(0);
    umask(mask);
    good = good && fchmod(fd, 0666 & ~mask) == 0 && fsync(fd) == 0;
    good = close(fd) == 0 && good;
    good = good && rename(temporary, target) == 0;
    if (!good) {
        status = fail(error, ZDS_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
        unlink(temporary);
    }
    free(temporary);
    free(target);
    return status;
}

char *path_join(const char *folder, const char *name)
{
    char *path = NULL;
    size_t length = strlen(folder);
    const char *slash = length && folder[length - 1] == '/' ? "" : "/";
    return asprintf(&path, "%s%s%s", folder, slash, name) < 0 ? NULL : path;
}
