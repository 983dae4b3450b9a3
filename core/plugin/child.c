/* Runs a program with a time limit and takes what it prints, for work that may crash or hang. */
#include "plugin/child.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "plugin/fault.h"

enum { MOST_OUTPUT = 16 << 20 };

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* posix_spawn, with stdout to `pipe_end`, no stdin, and the signals as a new program expects them.
 */
static int spawn(char *const argv[], int pipe_end, bool quiet, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    int code = posix_spawn_file_actions_init(&files);
    if (code)
        return code;
    code = posix_spawnattr_init(&attributes);
    if (code) {
        posix_spawn_file_actions_destroy(&files);
        return code;
    }
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                              POSIX_SPAWN_SETPGROUP);
    code = posix_spawn_file_actions_adddup2(&files, pipe_end, STDOUT_FILENO);
    if (!code)
        code = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (!code && quiet)
        code = posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    if (!code)
        code = posix_spawn(pid, argv[0], &files, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return code;
}

static bool is_done(const char *text, size_t length)
{
    size_t tail = strlen(CHILD_DONE);
    return length >= tail && memcmp(text + length - tail, CHILD_DONE, tail) == 0;
}

/* Reads until the output is done, the pipe is closed, or the time is up (then *late is set).
 * Returns the text, or NULL without memory. */
static char *read_output(int fd, int limit_ms, bool *late)
{
    int64_t end = now_ms() + limit_ms;
    size_t length = 0, room = 4096;
    char *text = malloc(room);
    while (text && !is_done(text, length)) {
        int64_t left = end - now_ms();
        struct pollfd wait = {fd, POLLIN, 0};
        int ready = left > 0 ? poll(&wait, 1, (int)left) : 0;
        *late = ready == 0;
        if (*late || length > MOST_OUTPUT)
            break;
        if (room - length < 2048) {
            char *longer = realloc(text, room *= 2);
            if (!longer)
                free(text);
            text = longer;
            if (!text)
                break;
        }
        ssize_t got = ready > 0 ? read(fd, text + length, room - length - 1) : -1;
        if (got == 0 || (got < 0 && errno != EINTR))
            break;
        length += got > 0 ? (size_t)got : 0;
    }
    if (text)
        text[length] = '\0';
    return text;
}

/* Waits for a process that has been killed or has closed its output. */
static char *how_it_ended(pid_t pid)
{
    int status = 0;
    pid_t got;
    do
        got = waitpid(pid, &status, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0) /* the program ignores SIGCHLD or waits for every child itself */
        return fault_format("ended early");
    if (WIFSIGNALED(status))
        return fault_format("crashed: %s", strsignal(WTERMSIG(status)));
    return fault_format("ended its process with exit code %d", WEXITSTATUS(status));
}

char *child_finish(pid_t pid, bool closed, int limit_ms)
{
    siginfo_t info = {0};
    for (int64_t end = now_ms() + limit_ms; closed && now_ms() < end;) {
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid)
            break;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    kill(-pid, SIGKILL);
    return how_it_ended(pid);
}

char *child_run(char *const argv[], int limit_ms, bool quiet, char **output)
{
    int ends[2];
    *output = NULL;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return fault_format("could not be started: %s", strerror(errno));
    pid_t pid;
    int code = spawn(argv, ends[1], quiet, &pid);
    close(ends[1]);
    if (code) {
        close(ends[0]);
        *output = code == ENOMEM ? NULL : strdup("");
        if (!*output)
            return fault_no_memory();
        return fault_format("could not be started: %s: %s", argv[0], strerror(code));
    }
    bool late = false;
    *output = read_output(ends[0], limit_ms, &late);
    close(ends[0]);
    bool done = *output && is_done(*output, strlen(*output));
    char *ended = child_finish(pid, !done && !late, limit_ms);
    if (done || late) {
        fault_free(ended);
        ended = done ? NULL
                     : fault_format("did not come to an end within %g s", (double)limit_ms / 1000);
    }
    if (!*output) {
        fault_free(ended);
        ended = fault_no_memory();
    }
    return ended;
}

int child_limit_ms(void)
{
    const char *text = getenv("ZDS_PLUGIN_TIMEOUT");
    double seconds = text ? strtod(text, NULL) : 0;
    return seconds > 0 && seconds < 86400 ? (int)ceil(seconds * 1000) : 10000;
}

/* === in the child === */

FILE *child_begin(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (fd < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        return NULL;
    return fdopen(fd, "w");
}

void child_done(FILE *out)
{
    fputs(CHILD_DONE, out);
    fflush(out);
    _exit(0);
}
