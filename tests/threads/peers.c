/* The engine's thread in operations of the ranks, while ticks of another thread's loops and the
 * thread for them move them: a plain program for ThreadSanitizer. */
#include <pthread.h>
#include <stdio.h>

#include "../unit/peers_fake.h"

enum { ROUNDS = 300, BODIES = 200 };

static pool *threads;

static void add(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    ((double *)arg)[i] += 1;
}

/* A thread of the program that computes. */
static void *compute(void *arg)
{
    for (int i = 0; i < ROUNDS; i++)
        pool_run(threads, BODIES, add, arg);
    return NULL;
}

int main(void)
{
    static const zds_coll nothing = {.struct_size = sizeof nothing};
    static double values[BODIES];
    fake f;
    ledger *memory = ledger_create();
    pthread_t other;
    if (pool_create(2, NULL, &threads, NULL))
        return 1;
    fake_open(&f, memory, threads);
    pool_tick_set(threads, fake_tick, &f.peers);
    if (peers_move(&f.peers, NULL) || pthread_create(&other, NULL, compute, values))
        return 1;
    int failed = 0;
    for (int i = 0; i < ROUNDS; i++) {
        zds_event *events[2] = {0};
        for (int k = 0; k < 2; k++)
            failed |=
                peers_issue(&f.peers, f.ops.barrier, &nothing, "a test", &events[k]) != ZDS_OK;
        failed |= peers_progress(&f.peers) != ZDS_OK;
        failed |= peers_wait(&f.peers, &events[0], "a test") != ZDS_OK;
        peers_drop(&f.peers, &events[1]);
    }
    pthread_join(other, NULL);
    pool_tick_set(threads, NULL, NULL);
    fake_close(&f);
    for (int i = 0; i < BODIES; i++)
        failed |= values[i] != ROUNDS;
    for (int i = 0; i < 8; i++)
        failed |= f.shared[i] != (size_t)f.calls;
    pool_destroy(threads);
    ledger_destroy(memory);
    if (failed)
        fprintf(stderr, "calls met\n");
    return failed;
}
