/* Where this zds is installed, and which files may be opened at all. */
#include "plugin/place.h"

#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <link.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/error.h"
#include "plugin/fault.h"

/* The library or program that `code` is in. malloc'ed; NULL with errno if there is none. */
static char *file_of(const void *code)
{
    errno = ENOENT;
    Dl_info info;
    struct link_map *map = NULL;
    if (!dladdr1(code, &info, (void **)&map, RTLD_DL_LINKMAP) || !map)
        return NULL;
    /* Of the main program the loader knows only what argv[0] says. */
    return realpath(map->l_name[0] ? map->l_name : "/proc/self/exe", NULL);
}

char *place_install(const void *code)
{
    static const char *const candidates[] = {"zds", "../lib/zds"};
    char *file = file_of(code), *found = NULL;
    if (!file)
        return NULL;
    *strrchr(file, '/') = '\0';
    for (size_t i = 0; i < sizeof candidates / sizeof *candidates && !found; i++) {
        char *helper = text_format("%s/%s/zds-plugin-probe", file, candidates[i]);
        bool there = helper && access(helper, X_OK) == 0;
        if (there) {
            *strrchr(helper, '/') = '\0';
            found = realpath(helper, NULL);
        }
        bool no_memory = !helper || (there && !found && errno == ENOMEM);
        free(helper);
        errno = no_memory ? ENOMEM : ENOENT;
        if (no_memory)
            break;
    }
    int error = errno;
    free(file);
    errno = error;
    return found;
}

/* A folder that is meant for everyone stays as it is. */
static char *mode_fault(const char *path, mode_t mode, mode_t writers)
{
    if (S_ISDIR(mode) && mode & S_ISVTX)
        return fault_format("%s is a folder that everyone can put files into; keep plugins in a "
                            "folder of your own",
                            path);
    const char *who = writers & S_IWOTH ? "everyone" : "its group";
    const char *letters = !(writers & S_IWOTH) ? "g" : writers & S_IWGRP ? "go" : "o";
    return fault_format("%s can be written by %s, who could put anything into it; run "
                        "chmod %s-w %s",
                        path, who, letters, path);
}

/* A group of the owner's alone, of the same name, as many systems give each user; there compilers
 * leave files that it can write. Root's has others in it on some. */
static bool is_private(gid_t gid, uid_t owner)
{
    struct passwd user, *u = NULL;
    struct group group, *g = NULL;
    char user_room[4096], group_room[4096]; /* a group that needs more has many members */
    if (owner == 0 || getpwuid_r(owner, &user, user_room, sizeof user_room, &u) != 0 || !u ||
        getgrgid_r(gid, &group, group_room, sizeof group_room, &g) != 0 || !g)
        return false;
    bool alone = u->pw_gid == gid && strcmp(u->pw_name, g->gr_name) == 0;
    for (char **member = g->gr_mem; alone && *member; member++)
        alone = strcmp(*member, u->pw_name) == 0;
    return alone;
}

/* Checks one file or folder. `yardstick`: what libzds.so allows, or NULL. */
static char *fault_of(const char *path, const struct stat *yardstick)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return fault_format("%s cannot be looked at: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))
        return fault_format("%s is neither a file nor a folder", path);
    mode_t writers = info.st_mode & (S_IWGRP | S_IWOTH);
    if (yardstick)
        writers &= ~yardstick->st_mode;
    if (writers & S_IWGRP && is_private(info.st_gid, info.st_uid))
        writers &= ~(mode_t)S_IWGRP;
    if (writers)
        return mode_fault(path, info.st_mode, writers);
    if (info.st_uid == 0 || info.st_uid == geteuid() ||
        (yardstick && info.st_uid == yardstick->st_uid))
        return NULL;
    return fault_format("%s belongs to user %u, neither to root nor to you (user %u); copy it to a "
                        "folder of your own if you trust it",
                        path, info.st_uid, geteuid());
}

/* Checks `path` and, if it is a file, its folder. */
static char *fault_with_folder(const char *path, const struct stat *yardstick)
{
    struct stat info;
    char *fault = fault_of(path, yardstick);
    if (fault || (stat(path, &info) == 0 && S_ISDIR(info.st_mode)))
        return fault;
    const char *slash = strrchr(path, '/');
    char *folder = slash == path ? strdup("/")
                                 : strndup(slash ? path : ".", slash ? (size_t)(slash - path) : 1);
    fault = folder ? fault_of(folder, yardstick) : fault_no_memory();
    free(folder);
    return fault;
}

char *place_fault(const char *path, bool installed)
{
    static const char here;
    struct stat own;
    char *file = installed ? file_of(&here) : NULL;
    if (installed && !file && errno == ENOMEM)
        return fault_no_memory();
    bool measured = file && stat(file, &own) == 0;
    free(file);
    char *real = realpath(path, NULL);
    if (!real && errno == ENOMEM)
        return fault_no_memory();
    if (!real)
        return fault_format("%s cannot be looked at: %s", path, strerror(errno));
    char *fault = fault_with_folder(real, measured ? &own : NULL);
    if (!fault && strcmp(real, path) != 0)
        fault = fault_with_folder(path, measured ? &own : NULL);
    free(real);
    return fault;
}
