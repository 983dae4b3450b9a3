/* Processes that a plugin leaves running. A process group is left by setsid; adopted orphans are
 * children wherever they went. */
#include "strays.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void strays_adopt(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

/* 0: there is no such process. */
static pid_t parent_of(pid_t pid)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    FILE *stat = fopen(path, "r");
    if (!stat)
        return 0;
    line[fread(line, 1, sizeof line - 1, stat)] = '\0';
    fclose(stat);
    const char *name_end = strrchr(line, ')'); /* then come the state, a letter, and the parent */
    return name_end && strlen(name_end) > 4 ? (pid_t)strtol(name_end + 4, NULL, 10) : 0;
}

static void kill_children(void)
{
    DIR *all = opendir("/proc");
    for (const struct dirent *e; all && (e = readdir(all));) {
        const pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        if (pid > 1 && parent_of(pid) == getpid())
            kill(pid, SIGKILL);
    }
    if (all)
        closedir(all);
}

void strays_end(void)
{
    enum { PATIENCE_MS = 2000 }; /* some may fork faster than they can be ended */
    for (int i = 0; i < PATIENCE_MS; i++) {
        const pid_t ended = waitpid(-1, NULL, WNOHANG);
        if (ended < 0)
            return;
        if (ended > 0)
            continue;
        kill_children();
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}
