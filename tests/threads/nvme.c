/* Offload nvme for ThreadSanitizer: copies that wait for each other and for events of another
 * thread, which tests theirs meanwhile; by io_uring and by threads. */
#include <dlfcn.h>
#include <errno.h>
#include <liburing.h>

#include "../failing/nvme_world.h"

enum { LINKS = 24, CHAINS = 4, PART = 40960, ROUNDS = 6 };

static bool no_ring;

__attribute__((visibility("default"))) int io_uring_queue_init(unsigned entries, struct io_uring *g,
                                                               unsigned flags)
{
    int (*next)(unsigned, struct io_uring *, unsigned);
    *(void **)&next = dlsym(RTLD_NEXT, "io_uring_queue_init");
    return no_ring ? -ENOSYS : next(entries, g, flags);
}

/* === an event that another thread ends, after it has written the source of a copy === */

typedef struct gate {
    zds_event base;
    pthread_mutex_t lock;
    bool open;
    unsigned char *memory;
    zds_event *watched; /* a copy's, which is tested meanwhile */
} gate;

static zds_status gate_test(zds_event *event, int32_t *done)
{
    gate *g = (gate *)(void *)event;
    pthread_mutex_lock(&g->lock);
    *done = g->open;
    pthread_mutex_unlock(&g->lock);
    return ZDS_OK;
}

static const zds_event_ops gate_ops = {
    .struct_size = sizeof gate_ops, .flags = ZDS_EVENT_ANY_THREAD, .test = gate_test};

static void *open_gate(void *arg)
{
    gate *g = arg;
    for (uint64_t i = 0; i < PART; i++)
        g->memory[i] = world_value(i, 1);
    int32_t done = 0;
    NEED(!g->watched->ops->test(g->watched, &done) && !done, "it did not wait for the gate");
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_mutex_unlock(&g->lock);
    while (!done)
        NEED(!g->watched->ops->test(g->watched, &done), "a copy has failed");
    return NULL;
}

/* From memory to the file and back, each link from where the last has put its bytes. */
static void run_chains(world *w, const zds_block *block, int shift)
{
    static zds_event *events[CHAINS][LINKS];
    unsigned char *memory = aligned_alloc(4096, (size_t)CHAINS * (LINKS + 2) * PART);
    memset(memory, 0, (size_t)CHAINS * (LINKS + 2) * PART);
    gate g = {.base = {&gate_ops}, .lock = PTHREAD_MUTEX_INITIALIZER, .memory = memory + shift};
    for (int c = 0; c < CHAINS; c++)
        for (int k = 0; k < LINKS; k++) {
            const uint64_t here = (uint64_t)(c * (LINKS + 2) + k) * PART;
            zds_event *before = k ? events[c][k - 1] : c ? NULL : &g.base;
            unsigned char *place = memory + shift + here + (k % 2 ? PART : 0);
            NEED(!world_begin(w, k % 2 ? block : NULL, place, k % 2 ? NULL : block,
                              k % 2 ? here - PART : here, PART, before, &events[c][k]),
                 "%s", w->error);
        }
    pthread_t opener;
    g.watched = events[0][LINKS - 1];
    NEED(pthread_create(&opener, NULL, open_gate, &g) == 0, "no thread");
    pthread_join(opener, NULL);
    for (int c = 0; c < CHAINS; c++)
        for (int k = LINKS - 1; k >= 0; k--)
            NEED(!world_end(events[c][k]), "%s", w->error);
    for (uint64_t i = 0; i < PART; i++)
        NEED(memory[shift + LINKS * PART + i] == world_value(i, 1), "byte %llu",
             (unsigned long long)i);
    free(memory);
}

int main(void)
{
    static const settings sets[] = {{16384, 4, 3, false, true}, {4096, 2, 2, true, false}};
    for (int way = 0; way < 4; way++) {
        world w = {.folder = "/tmp/zds-threads-XXXXXX"};
        zds_block block = {.struct_size = sizeof block};
        no_ring = way / 2;
        NEED(mkdtemp(w.folder), "%s", strerror(errno));
        NEED(!world_open(&w, &sets[way % 2]), "%s", w.error);
        NEED(!w.ops->alloc(w.self, (uint64_t)CHAINS * (LINKS + 2) * PART, &block), "%s", w.error);
        for (int k = 0; k < ROUNDS; k++)
            run_chains(&w, &block, k % 2);
        w.ops->free(w.self, &block);
        w.ops->close(w.self);
        NEED(w.live == 0, "%ld allocations are left", w.live);
        NEED(rmdir(w.folder) == 0, "%s", strerror(errno));
        NEED((strstr(w.logged, "io_uring cannot be had") != NULL) == no_ring, "%s", w.logged);
    }
    return 0;
}
