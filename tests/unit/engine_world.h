/* Ranks as processes, each as its launcher would start it. */
#ifndef TESTS_UNIT_ENGINE_WORLD_H
#define TESTS_UNIT_ENGINE_WORLD_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_where.h"
#include "zds/zds.h"

#define NEED(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

/* A process is rank `rank` of `size`; its launcher says who shares the node, or does not. */
static void launch_as(int rank, int size, int port, bool local)
{
    set_number("RANK", rank);
    set_number("WORLD_SIZE", size);
    set_number("MASTER_PORT", port);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    setenv("ZDS_TIMEOUT", "20", 1);
    where_search();
    unsetenv("LOCAL_RANK");
    unsetenv("LOCAL_WORLD_SIZE");
    if (local) {
        set_number("LOCAL_RANK", rank);
        set_number("LOCAL_WORLD_SIZE", size);
    }
}

static void run(int size, bool local, void (*body)(int rank, int size))
{
    static int count;
    const int port = 20000 + (getpid() * 13 + 9 * count++) % 12000;
    pid_t pid[4];
    fflush(NULL);
    for (int r = 0; r < size; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            alarm(60);
            launch_as(r, size, port, local);
            body(r, size);
            _exit(0);
        }
    }
    for (int r = 0; r < size; r++) {
        int status = -1;
        waitpid(pid[r], &status, 0);
        cr_expect_eq(status, 0, "rank %d of %d, local numbers %d", r, size, local);
    }
}

#endif
