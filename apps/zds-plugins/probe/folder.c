/* The folder of a check. */
#include "folder.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/error.h"

static char *folder;

static char *make_in(const char *place)
{
    char *path = text_format("%s/zds-check-XXXXXX", place);
    if (path && mkdtemp(path))
        return path;
    free(path);
    return NULL;
}

void folder_make(void)
{
    const char *place = getenv("TMPDIR");
    folder = make_in(place && *place ? place : "/tmp");
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info, (void)kind, (void)where;
    remove(path);
    return 0;
}

void folder_remove(void)
{
    enum { FILES = 8 }; /* that are open meanwhile */
    if (folder)
        nftw(folder, remove_one, FILES, FTW_DEPTH | FTW_PHYS);
    free(folder);
    folder = NULL;
}

char *folder_within(void)
{
    return folder ? make_in(folder) : NULL;
}
