/* What the core offers to a plugin's instance: log, errors, memory, threads, under the instance's
 * name. */
#include "memory/services.h"

#include <stdlib.h>

#include "host/error.h"
#include "host/log.h"
#include "memory/tier.h"

struct device_memory {
    device_memory *next;
    slab slab;
    void *pointer;
    int64_t bytes; /* as the ledger has them */
};

static services *of(const zds_host *host)
{
    return host->context;
}

static void say(const zds_host *host, int32_t level, const char *format, ...) ZDS_PRINTF(3, 4);
static zds_status fail(const zds_host *host, zds_status status, const char *format, ...)
    ZDS_PRINTF(3, 4);

static void say(const zds_host *host, int32_t level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const services *s = of(host);
    char *text = s->hear && level == ZDS_LOG_WARNING ? text_formatv(format, args) : NULL;
    if (text)
        s->hear(s->hear_user, text);
    else
        log_linev(level, s->rank, s->name, format, args);
    free(text);
    va_end(args);
}

static zds_status fail(const zds_host *host, zds_status status, const char *format, ...)
{
    services *s = of(host);
    va_list args;
    va_start(args, format);
    pthread_mutex_lock(&s->lock);
    if (!s->error)
        s->error = text_formatv(format, args);
    pthread_mutex_unlock(&s->lock);
    va_end(args);
    return status;
}

static void *give(const zds_host *host, size_t bytes, size_t align)
{
    return ledger_alloc(of(host)->ledger, of(host)->name, bytes, align);
}

static void *give_of_device(services *s, size_t bytes, size_t align)
{
    device_memory *m = calloc(1, sizeof *m);
    align = align < 64 ? 64 : align;
    const size_t size = bytes ? (bytes + align - 1) & ~(align - 1) : align;
    const size_t room = align > s->tier->info.alignment ? size + align : size;
    if (!m || size < bytes || room < size || tier_alloc(s->tier, NULL, room, &m->slab, NULL)) {
        free(m);
        return NULL;
    }
    m->pointer = (char *)m->slab.block.pointer + (-(uintptr_t)m->slab.block.pointer & (align - 1));
    m->bytes = (int64_t)size;
    pthread_mutex_lock(&s->lock);
    m->next = s->device_memory;
    s->device_memory = m;
    pthread_mutex_unlock(&s->lock);
    ledger_note(s->ledger, s->name, s->tier->name, m->bytes, 0);
    return m->pointer;
}

static void *give_in(const zds_host *host, zds_device device, size_t bytes, size_t align)
{
    services *s = of(host);
    if (device.space == ZDS_SPACE_HOST)
        return give(host, bytes, align);
    if (!s->tier || device.space != s->device.space || device.ordinal != s->device.ordinal)
        return NULL;
    if (s->tier->planned)
        return ledger_alloc_in(s->ledger, s->name, s->tier->name, bytes, align);
    return give_of_device(s, bytes, align);
}

static void free_of_device(services *s, device_memory *m)
{
    ledger_note(s->ledger, s->name, s->tier->name, -m->bytes, 0);
    tier_free(&m->slab);
    free(m);
}

static void take(const zds_host *host, void *pointer)
{
    services *s = of(host);
    device_memory *found = NULL;
    pthread_mutex_lock(&s->lock);
    for (device_memory **link = &s->device_memory; *link && !found;)
        if ((*link)->pointer == pointer) {
            found = *link;
            *link = found->next;
        } else {
            link = &(*link)->next;
        }
    pthread_mutex_unlock(&s->lock);
    if (found)
        free_of_device(s, found);
    else
        ledger_free(s->ledger, pointer);
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

static void parallel(const zds_host *host, size_t n, void (*body)(void *, size_t), void *arg)
{
    job j = {.body = body, .arg = arg};
    for (size_t i = 0; of(host)->alone && i < n; i++)
        body(arg, i);
    if (of(host)->alone)
        return;
    pool_run(of(host)->threads, n, run_one, &j);
}

void services_init(services *s, const char *name, int32_t rank, ledger *memory, pool *threads)
{
    *s = (services){.name = name, .rank = rank, .ledger = memory, .threads = threads};
    pthread_mutex_init(&s->lock, NULL);
    s->host = (zds_host){.struct_size = sizeof s->host,
                         .abi_minor = ZDS_ABI_MINOR,
                         .threads = pool_threads(threads),
                         .context = s,
                         .log = say,
                         .fail = fail,
                         .alloc = give,
                         .free = take,
                         .parallel_for = parallel,
                         .alloc_in = give_in};
}

void services_on(services *s, tier *memory, zds_device device)
{
    s->tier = memory;
    s->device = device;
}

void services_destroy(services *s)
{
    if (!s->host.context)
        return;
    while (s->device_memory) {
        device_memory *m = s->device_memory;
        s->device_memory = m->next;
        free_of_device(s, m);
    }
    free(s->error);
    pthread_mutex_destroy(&s->lock);
    *s = (services){0};
}

const char *services_error(services *s)
{
    pthread_mutex_lock(&s->lock); /* a plugin may have threads that fail */
    const char *text = s->error;
    pthread_mutex_unlock(&s->lock);
    return text ? text : "it gave no reason";
}

void services_clear(services *s)
{
    pthread_mutex_lock(&s->lock);
    free(s->error);
    s->error = NULL;
    pthread_mutex_unlock(&s->lock);
}
