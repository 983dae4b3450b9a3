/* What every call of the engine rests on: errors, waiting, small collectives; and the facts it
 * tells. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/internal.h"
#include "host/error.h"
#include "host/sized.h"

zds_status engine_fail(zds_engine *e, zds_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = text_formatv(format, args);
    va_end(args);
    failure_set(&e->failure, status, "%s", text ? text : format);
    free(text);
    return status;
}

const char *zds_engine_error(const zds_engine *e)
{
    return e && e->failure.text ? e->failure.text : "";
}

zds_status engine_usable(zds_engine *e)
{
    if (!e)
        return ZDS_ERR_INVALID;
    if (getpid() != e->process)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "process %d was forked from process %d after zds_engine_create: it has "
                           "none of the engine's threads, and shared pages are not its own; use "
                           "the engine where it was created, and fork only to exec",
                           (int)getpid(), (int)e->process);
    if (e->failure.broken) /* the text of what broke it stays */
        return e->failure.text
                   ? ZDS_ERR_INVALID
                   : engine_fail(e, ZDS_ERR_INVALID, "the engine failed before: destroy it");
    return ZDS_OK;
}

zds_status engine_give_up(zds_engine *e, zds_status status)
{
    return peers_give_up(&e->comm.peers, status);
}

double engine_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

zds_status zds_sum_over_ranks(zds_engine *e, double *values, size_t count)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (count > PEERS_DOUBLES)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_sum_over_ranks: at most %d values at once",
                           PEERS_DOUBLES);
    if (count && !values)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_sum_over_ranks: values is NULL");
    const void *all;
    status = peers_gather(e->control, values, count * sizeof *values, &all, "zds_sum_over_ranks");
    if (status)
        return status;
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (int32_t r = 0; r < e->launch.world_size; r++)
            sum += ((const double *)all)[(size_t)r * count + i];
        values[i] = sum;
    }
    return ZDS_OK;
}

zds_status zds_barrier(zds_engine *e)
{
    zds_status status = engine_usable(e);
    return status ? status : peers_agree(e->control, ZDS_OK, "zds_barrier");
}

zds_status zds_broadcast(zds_engine *e, void *data, uint64_t bytes, int32_t root)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (root < 0 || root >= e->launch.world_size)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_broadcast: there is no rank %d, only %d of them", root,
                           e->launch.world_size);
    if (bytes && !data)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_broadcast: data is NULL");
    return zero_broadcast(e->zero, data, bytes, root);
}

zds_status zds_fail(zds_engine *e, zds_status status, const char *format, ...)
{
    zds_status usable = engine_usable(e);
    status = status ? status : ZDS_ERR_INVALID;
    if (usable)
        return e && getpid() == e->process ? status : usable;
    va_list args;
    va_start(args, format);
    char *text = text_formatv(format, args);
    va_end(args);
    engine_fail(e, status, "%s", text ? text : format);
    free(text);
    e->given_up = status;
    return engine_give_up(e, status);
}

double zds_loss_scale(const zds_engine *e)
{
    return e ? e->scale.value / (double)e->accumulation : 0;
}

int32_t zds_rank(const zds_engine *e)
{
    return e ? e->launch.rank : 0;
}

int32_t zds_world_size(const zds_engine *e)
{
    return e ? e->launch.world_size : 0;
}

int32_t zds_threads(const zds_engine *e)
{
    return e ? pool_threads(e->threads) : 0;
}

int64_t zds_accumulation_steps(const zds_engine *e)
{
    return e ? e->accumulation : 0;
}

int64_t zds_micro_batch_size(const zds_engine *e)
{
    return e ? e->set.micro_batch : 0;
}

zds_dtype zds_param_dtype(const zds_engine *e)
{
    return e ? e->set.param_dtype : ZDS_F32;
}

zds_device zds_param_device(const zds_engine *e)
{
    return e ? e->device : (zds_device){.space = ZDS_SPACE_HOST};
}

bool zds_is_boundary(const zds_engine *e)
{
    return e && e->in_micro && e->boundary;
}

typedef struct job {
    void (*body)(void *, size_t);
    void *arg;
} job;

static void run_one(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const job *j = arg;
    j->body(j->arg, i);
}

void zds_parallel_for(zds_engine *e, size_t n, void (*body)(void *, size_t), void *arg)
{
    if (!body)
        return;
    if (!e || getpid() != e->process) { /* a forked child has none of the pool's threads */
        for (size_t i = 0; i < n; i++)
            body(arg, i);
        return;
    }
    job j = {.body = body, .arg = arg};
    pool_run(e->threads, n, run_one, &j);
}

bool zds_memory_report_sized(const zds_engine *e, size_t i, zds_memory_row *row, size_t size)
{
    zds_memory_row own;
    if (!e || !row || !ledger_row(e->ledger, i, &own))
        return false;
    sized_fill(row, size, &own, sizeof own);
    return true;
}

void zds_take_times(zds_engine *e, zds_step_times *times)
{
    if (!e || !sized_is_set(times))
        return;
    sized_fill(times, times->struct_size, &e->times, sizeof e->times);
    e->times = (zds_step_times){0};
}
