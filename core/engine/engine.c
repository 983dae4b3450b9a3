/* What every call of the engine rests on: errors, waiting, small collectives; and the facts it
 * tells. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/internal.h"
#include "host/error.h"

zds_status engine_fail(zds_engine *e, zds_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = text_formatv(format, args);
    va_end(args);
    free(e->error);
    e->error = text;
    return status;
}

const char *zds_engine_error(const zds_engine *e)
{
    return e && e->error ? e->error : "";
}

zds_status engine_usable(zds_engine *e)
{
    if (!e)
        return ZDS_ERR_INVALID;
    if (getpid() !=
        e->process) /* after fork the child has no threads, and shared pages are not its own */
        return ZDS_ERR_INVALID;
    if (e->broken) /* the text of what broke it stays */
        return e->error ? ZDS_ERR_INVALID
                        : engine_fail(e, ZDS_ERR_INVALID, "the engine failed before: destroy it");
    return ZDS_OK;
}

zds_status engine_comm_failed(zds_engine *e, zds_status status, const char *doing)
{
    e->broken = true;
    return engine_fail(e, status, "rank %d, %s: %s", e->place.rank, doing,
                       services_error(&e->comm_services));
}

zds_status engine_give_up(zds_engine *e, zds_status status)
{
    if (!e->broken && e->place.world_size > 1)
        e->comm.abort(e->comm_self, zds_engine_error(e));
    e->broken = true;
    return status;
}

double engine_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

zds_status engine_wait(zds_engine *e, zds_event **event, const char *doing)
{
    zds_event *waited = *event;
    if (!waited)
        return ZDS_OK;
    services_clear(&e->comm_services);
    zds_status status = waited->ops->wait(waited);
    waited->ops->release(waited);
    *event = NULL;
    return status ? engine_comm_failed(e, status, doing) : ZDS_OK;
}

zds_status engine_published(zds_engine *e)
{
    return e->publish ? engine_wait(e, &e->publish, "publishing parameters") : ZDS_OK;
}

zds_status engine_gather_small(zds_engine *e, const void *mine, size_t bytes, const void **all)
{
    char *from = e->control.base, *to = from + ((bytes + 63) & ~(size_t)63);
    if (mine != from)
        memcpy(from, mine, bytes);
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = 7,
                     .src = from,
                     .dst = to,
                     .count = bytes,
                     .src_dtype = ZDS_U8,
                     .dst_dtype = ZDS_U8};
    zds_event *event = NULL;
    services_clear(&e->comm_services);
    zds_status status = e->comm.all_gather(e->comm_self, &coll, &event);
    if (status)
        return engine_comm_failed(e, status, "exchanging a few numbers");
    *all = to;
    return engine_wait(e, &event, "exchanging a few numbers");
}

zds_status zds_sum_over_ranks(zds_engine *e, double *values, size_t count)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (count > CONTROL_DOUBLES)
        return engine_fail(e, ZDS_ERR_INVALID, "zds_sum_over_ranks: at most %d values at once",
                           CONTROL_DOUBLES);
    const void *all;
    status = engine_gather_small(e, values, count * sizeof *values, &all);
    if (status)
        return status;
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (int32_t r = 0; r < e->place.world_size; r++)
            sum += ((const double *)all)[(size_t)r * count + i];
        values[i] = sum;
    }
    return ZDS_OK;
}

zds_status zds_barrier(zds_engine *e)
{
    double nothing = 0;
    return zds_sum_over_ranks(e, &nothing, 1);
}

double zds_loss_scale(const zds_engine *e)
{
    return 1.0 / (double)e->set.accumulation;
}

int32_t zds_rank(const zds_engine *e)
{
    return e->place.rank;
}

int32_t zds_world_size(const zds_engine *e)
{
    return e->place.world_size;
}

int32_t zds_threads(const zds_engine *e)
{
    return pool_threads(e->threads);
}

int64_t zds_accumulation_steps(const zds_engine *e)
{
    return e->set.accumulation;
}

int64_t zds_micro_batch_size(const zds_engine *e)
{
    return e->set.micro_batch;
}

zds_dtype zds_param_dtype(const zds_engine *e)
{
    return e->set.param_dtype;
}

bool zds_is_boundary(const zds_engine *e)
{
    return e->in_micro && e->boundary;
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
    if (getpid() != e->process) { /* a forked child has none of the pool's threads */
        for (size_t i = 0; i < n; i++)
            body(arg, i);
        return;
    }
    job j = {.body = body, .arg = arg};
    pool_run(e->threads, n, run_one, &j);
}

bool zds_memory_report(const zds_engine *e, size_t i, zds_memory_row *row)
{
    return ledger_row(e->ledger, i, row);
}

void zds_take_times(zds_engine *e, zds_step_times *times)
{
    size_t size = times->struct_size < sizeof e->times ? times->struct_size : sizeof e->times;
    e->times.struct_size = size;
    memcpy(times, &e->times, size);
    e->times = (zds_step_times){0};
}
