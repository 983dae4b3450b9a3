/* What a plugin prints while it is checked: into memory of a fixed size, so that one that does not
 * stop fills no terminal and no disk. */
#include "printed.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "plugin/fault.h"

enum { ROOM = 1 << 16 };

static int file = -1;
static char *text; /* [ROOM], of the file */
static char *first_fault;

void printed_open(void)
{
    file = memfd_create("printed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0)
        return;
    void *map = MAP_FAILED;
    /* Sealed: a write past the end is an error of the writer's. */
    if (ftruncate(file, ROOM) == 0 && fcntl(file, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) == 0)
        map = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) {
        text = map;
        return;
    }
    close(file);
    file = -1;
}

void printed_take(void)
{
    if (text) {
        dup2(file, STDOUT_FILENO);
        dup2(file, STDERR_FILENO);
    }
}

static void remember(const char *check)
{
    char first_line[64];
    size_t n = 0;
    for (const char *c = text; n < sizeof first_line - 1 && *c && *c != '\n'; c++)
        first_line[n++] = isprint((unsigned char)*c) ? *c : '?';
    first_line[n] = '\0';
    first_fault = fault_format("\"%s\" in \"%s\"; give it to host->log", first_line, check);
}

void printed_show(const char *check)
{
    const size_t length = text ? strnlen(text, ROOM) : 0;
    if (!length)
        return;
    if (!first_fault)
        remember(check);
    fwrite(text, 1, length, stderr);
    memset(text, 0, ROOM);
    lseek(file, 0, SEEK_SET);
}

char *printed_fault(void)
{
    char *fault = first_fault;
    first_fault = NULL;
    return fault;
}
