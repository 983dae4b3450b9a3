/* One line at a time to the program's sink, or to stderr, from any thread. */
#include "host/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/error.h"
#include "zds/zds.h"

/* Held while a line is written, so that a sink that was replaced is not in use any more. A sink may
 * itself log or name another sink. */
static pthread_mutex_t one_line = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static zds_log_fn sink;
static void *sink_user;
static _Atomic int32_t chosen_level = -1; /* -1: not chosen yet, see level_now */

static const char *const level_names[] = {"error", "warning", "info", "debug"};

static int32_t level_now(void)
{
    int32_t level = atomic_load_explicit(&chosen_level, memory_order_relaxed);
    if (level >= 0)
        return level;
    int32_t nobody = -1;
    level = ZDS_LOG_INFO;
    const char *wanted = getenv("ZDS_LOG");
    for (int32_t i = 0; wanted && i < 4; i++)
        if (strcmp(wanted, level_names[i]) == 0)
            level = i;
    return atomic_compare_exchange_strong(&chosen_level, &nobody, level) ? level : nobody;
}

void zds_log_to(zds_log_fn function, void *user)
{
    pthread_mutex_lock(&one_line);
    sink = function;
    sink_user = user;
    pthread_mutex_unlock(&one_line);
}

void zds_log_level(int32_t level)
{
    atomic_store(&chosen_level, level < 0 ? 0 : level > ZDS_LOG_DEBUG ? ZDS_LOG_DEBUG : level);
}

void log_linev(int32_t level, int32_t rank, const char *source, const char *format, va_list args)
{
    if (level < 0 || level > level_now())
        return;
    char who[32] = "";
    if (rank >= 0)
        snprintf(who, sizeof who, "rank %d: ", rank);
    char *text = text_formatv(format, args);
    char *line = text_format("zds: %s%s%s%s: %s", who, source ? source : "", source ? ": " : "",
                             level_names[level > 3 ? 3 : level], text ? text : format);
    pthread_mutex_lock(&one_line);
    if (line && sink)
        sink(sink_user, level, line);
    else if (line)
        fprintf(stderr, "%s\n", line);
    pthread_mutex_unlock(&one_line);
    free(line);
    free(text);
}

void log_line(int32_t level, int32_t rank, const char *source, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_linev(level, rank, source, format, args);
    va_end(args);
}
