/* Ranks as children of this process: started, bound, watched, and all ended together. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/output.h"
#include "run.h"

enum { GRACE_MS = 5000, NOT_FOUND = 127, NOT_EXECUTABLE = 126 };

typedef struct child {
    pid_t pid; /* 0: ended */
    int status;
} child;

typedef struct world {
    const run_options *options;
    machine machine;
    int ranks, running, port;
    bind_mode bind;
    child *children; /* [ranks] */
    tagger *tagger;  /* NULL without --tag-output */
    struct pollfd *fds;
    int signals; /* signalfd */
    sigset_t old_mask;
    int code;           /* what this program will return */
    bool ending;        /* the others have been told to end */
    int64_t kill_at_ms; /* when they get no more time */
} world;

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A port that nobody uses now; 0 if there is none. */
static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int port = 0, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, size) == 0 &&
        getsockname(fd, (struct sockaddr *)&at, &size) == 0)
        port = ntohs(at.sin_port);
    if (fd >= 0)
        close(fd);
    return port;
}

/* === in the child === */

static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

static void set_environment(const world *w, int rank)
{
    set_number("RANK", rank);
    set_number("LOCAL_RANK", rank);
    set_number("WORLD_SIZE", w->ranks);
    set_number("LOCAL_WORLD_SIZE", w->ranks);
    set_number("MASTER_PORT", w->port);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
}

/* The input goes to rank 0; a terminal to none, since ranks are in groups of their own and would be
 * stopped when they read it. */
static void set_input(int rank)
{
    if (rank == 0 && !isatty(STDIN_FILENO))
        return;
    int fd = open("/dev/null", O_RDONLY);
    if (fd > STDIN_FILENO) {
        dup2(fd, STDIN_FILENO);
        close(fd);
    }
}

/* Like execvp; a bare name that is not in PATH may lie beside this program. */
static void execute(char **command)
{
    execvp(command[0], command);
    int error = errno;
    char path[4096];
    ssize_t n = error == ENOENT && !strchr(command[0], '/')
                    ? readlink("/proc/self/exe", path, sizeof path - 1)
                    : -1;
    if (n > 0) {
        path[n] = 0;
        char *slash = strrchr(path, '/');
        size_t room = sizeof path - (size_t)(slash + 1 - path);
        if (strlen(command[0]) < room) {
            memcpy(slash + 1, command[0], strlen(command[0]) + 1);
            execv(path, command);
        }
    }
    errno = error;
}

static void become_rank(const world *w, int rank, pid_t parent, const int ends[2], int report)
{
    setpgid(0, 0); /* so that what a rank starts ends with it */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(128 + SIGKILL);
    sigprocmask(SIG_SETMASK, &w->old_mask, NULL);
    set_input(rank);
    if (w->tagger) {
        dup2(ends[0], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
    }
    if (!machine_bind(&w->machine, w->bind, rank, w->ranks))
        fprintf(stderr, "zds-run: warning: rank %d could not be bound\n", rank);
    set_environment(w, rank);
    execute(w->options->command);
    int error = errno;
    ssize_t written = write(report, &error, sizeof error);
    _exit(written == (ssize_t)sizeof error ? NOT_FOUND : EXIT_FAILED);
}

/* === starting and ending === */

static void end_all(world *w, int signal)
{
    for (int r = 0; r < w->ranks; r++)
        if (w->children[r].pid)
            kill(-w->children[r].pid, signal);
    if (!w->ending)
        w->kill_at_ms = now_ms() + GRACE_MS;
    w->ending = true;
}

/* 0, or the errno with which the program could not be started. */
static int start_rank(world *w, int rank)
{
    int report[2], ends[2] = {-1, -1}, error = 0;
    pid_t parent = getpid();
    if (pipe2(report, O_CLOEXEC) != 0)
        return errno;
    if (w->tagger && !tagger_open(w->tagger, rank, ends)) {
        error = errno;
        close(report[0]);
        close(report[1]);
        return error;
    }
    pid_t pid = fork();
    if (pid == 0)
        become_rank(w, rank, parent, ends, report[1]);
    error = pid < 0 ? errno : 0;
    close(report[1]);
    for (int k = 0; k < 2; k++)
        if (ends[k] >= 0)
            close(ends[k]);
    if (pid > 0) {
        setpgid(pid, pid); /* here too: whoever comes first */
        ssize_t n;
        do /* ends when the child has become the program */
            n = read(report[0], &error, sizeof error);
        while (n < 0 && errno == EINTR);
        error = n == (ssize_t)sizeof error ? error : 0;
        if (error) {
            waitpid(pid, NULL, 0);
        } else {
            w->children[rank].pid = pid;
            w->running++;
        }
    }
    close(report[0]);
    return error;
}

static void start_all(world *w)
{
    for (int r = 0; r < w->ranks && !w->code; r++) {
        int error = start_rank(w, r);
        if (!error)
            continue;
        output_error("cannot start \"%s\" as rank %d: %s", w->options->command[0], r,
                     strerror(error));
        w->code = error == ENOENT ? NOT_FOUND : error == EACCES ? NOT_EXECUTABLE : EXIT_FAILED;
        end_all(w, SIGTERM);
    }
}

static int rank_of(const world *w, pid_t pid)
{
    for (int r = 0; r < w->ranks; r++)
        if (w->children[r].pid == pid)
            return r;
    return -1;
}

static void report_failure(world *w, int rank)
{
    int status = w->children[rank].status;
    const char *then = w->running ? "; ending the others" : "";
    if (WIFSIGNALED(status)) {
        w->code = 128 + WTERMSIG(status);
        fprintf(stderr, "zds-run: rank %d was killed by signal %d (%s)%s\n", rank, WTERMSIG(status),
                strsignal(WTERMSIG(status)), then);
    } else {
        w->code = WEXITSTATUS(status);
        fprintf(stderr, "zds-run: rank %d exited with code %d%s\n", rank, w->code, then);
    }
    end_all(w, SIGTERM);
}

/* Collects all that have ended. Of several failures at once a signal is the cause, since those who
 * notice a dead peer exit by themselves. */
static void reap(world *w)
{
    int failed = -1;
    siginfo_t info = {0};
    while (w->running && waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid) {
        int status, rank = rank_of(w, info.si_pid);
        if (rank >= 0) /* before its number can be used again */
            kill(-info.si_pid, SIGKILL);
        if (waitpid(info.si_pid, &status, 0) == info.si_pid && rank >= 0) {
            w->children[rank] = (child){0, status};
            w->running--;
            bool worse =
                failed < 0 || (WIFSIGNALED(status) && !WIFSIGNALED(w->children[failed].status));
            if (status != 0 && worse)
                failed = rank;
        }
        info.si_pid = 0;
    }
    if (failed >= 0 && !w->ending)
        report_failure(w, failed);
}

static void take_signal(world *w)
{
    struct signalfd_siginfo info;
    while (read(w->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        int signal = (int)info.ssi_signo;
        if (signal == SIGCHLD)
            continue;
        bool again = w->ending;
        if (!w->code) {
            w->code = 128 + signal;
            fprintf(stderr, "zds-run: %s; ending %d rank(s)\n", strsignal(signal), w->running);
        }
        end_all(w, again ? SIGKILL : signal);
    }
}

static void watch(world *w)
{
    size_t count = tagger_count(w->tagger);
    while (w->running) {
        w->fds[0] = (struct pollfd){.fd = w->signals, .events = POLLIN};
        tagger_poll(w->tagger, w->fds + 1);
        int64_t left = w->ending ? w->kill_at_ms - now_ms() : 60000;
        if (left <= 0) {
            end_all(w, SIGKILL);
            left = 1000;
        }
        if (poll(w->fds, 1 + count, (int)left) < 0 && errno != EINTR)
            break;
        take_signal(w);
        tagger_read(w->tagger);
        reap(w);
    }
    tagger_flush(w->tagger);
}

static bool open_world(world *w)
{
    sigset_t mask;
    sigemptyset(&mask);
    const int caught[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD};
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++)
        sigaddset(&mask, caught[i]);
    sigprocmask(SIG_BLOCK, &mask, &w->old_mask);
    signal(SIGCHLD, SIG_DFL); /* a parent that ignores it must not hide our children's ends */
    w->signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    w->children = calloc((size_t)w->ranks, sizeof *w->children);
    w->fds = calloc(1 + 2 * (size_t)w->ranks, sizeof *w->fds);
    if (w->options->tag_output)
        w->tagger = tagger_create(w->ranks);
    w->port = free_port();
    if (!w->port)
        output_error("no free port on 127.0.0.1: %s", strerror(errno));
    return w->port && w->signals >= 0 && w->children && w->fds &&
           (w->tagger || !w->options->tag_output);
}

int launch_local(const run_options *options)
{
    world w = {.options = options, .signals = -1};
    if (!machine_open(&w.machine))
        return output_error("cannot read this machine's topology (hwloc)");
    w.ranks = options->ranks ? options->ranks : w.machine.cores;
    w.bind = options->bind;
    if (w.bind == BIND_DEFAULT)
        w.bind = w.ranks <= w.machine.cores ? BIND_CORE : BIND_NONE;
    if (open_world(&w)) {
        start_all(&w);
        watch(&w);
    } else {
        w.code = output_error("cannot prepare %d ranks: %s", w.ranks, strerror(errno));
    }
    tagger_destroy(w.tagger);
    free(w.children);
    free(w.fds);
    if (w.signals >= 0)
        close(w.signals);
    machine_close(&w.machine);
    return w.code;
}
