/* The thread pool under ThreadSanitizer: a plain program, since Criterion's own processes and that
 * sanitizer exclude each other. */
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "host/pool.h"
#include "memory/ledger.h"

enum { N = 2000 };

typedef struct work {
    double *values; /* [N], written without atomics: each index by one thread, read after the run */
    ledger *ledger;
} work;

static void add_one(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    work *w = arg;
    w->values[i] += 1;
    ledger_free(w->ledger, ledger_alloc(w->ledger, "test", 64, 0));
}

int main(void)
{
    int failed = 0;
    for (int32_t threads = 1; threads <= 4; threads++) {
        static double values[N];
        work w = {.values = values, .ledger = ledger_create()};
        pool *p;
        if (pool_create(threads, 1, &p, NULL))
            return 1;
        for (size_t i = 0; i < N; i++)
            values[i] = 0;
        const int runs = 60;
        for (int r = 0; r < runs; r++) {
            pool_run(p, N, add_one, &w);
            if (r % 20 == 0)
                usleep(2000);
        }
        for (size_t i = 0; i < N; i++)
            failed += values[i] != runs;
        printf("%d threads: %d runs of %d indices, %d wrong\n", threads, runs, N, failed);
        pool_destroy(p);
        ledger_destroy(w.ledger);
    }
    return failed != 0;
}
