/* Which rank this process is; errors and signals of a program that runs as several. */
#include "rank.h"

#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/output.h"

static const char *const launchers[][2] = {{"RANK", "WORLD_SIZE"},
                                           {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                                           {"PMI_RANK", "PMI_SIZE"},
                                           {"SLURM_PROCID", "SLURM_NTASKS"}};

static int32_t variable(int which, int32_t missing)
{
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++)
        if (getenv(launchers[i][0]) && getenv(launchers[i][1]))
            return atoi(getenv(launchers[i][which]));
    return missing;
}

int32_t rank_here(void)
{
    return variable(0, 0);
}

int32_t rank_count(void)
{
    int32_t count = variable(1, 1);
    return count > 0 ? count : 1;
}

int rank_failed(zds_error *error)
{
    zds_status status = error->status;
    if (rank_here() != 0 || status == ZDS_ERR_PEER)
        usleep(700000);
    const char *text = error->text ? error->text : zds_status_name(status);
    size_t length = strlen(text);
    while (length && text[length - 1] == '\n')
        length--;
    if (rank_here() == 0)
        output_error("%.*s", (int)length, text);
    else
        output_error("rank %d: %.*s", (int)rank_here(), (int)length, text);
    zds_error_clear(error);
    return status == ZDS_ERR_MISMATCH ? EXIT_MISMATCH : EXIT_FAILED;
}

static volatile sig_atomic_t waiting;

static void remember(int number)
{
    waiting = number;
}

static void handle(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

void signals_hold(void)
{
    handle(remember);
}

void signals_resume(void)
{
    handle(SIG_DFL);
    if (waiting)
        raise(waiting);
}
