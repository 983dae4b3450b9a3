/* The matrix products of one Muon step and nothing else, by oneDNN's own threads, as the reference
 * computes them: each in full. Beside it the time that the operations that are left would take at
 * the same rate if half of each symmetric product is left out.
 *
 * usage: muon_products MATRICES ROWS COLUMNS THREADS REPEATS       prints JSON */
#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static float *fill(size_t count)
{
    float *x = malloc(count * sizeof *x);
    for (size_t i = 0; x && i < count; i++)
        x[i] = 1e-3f * (float)((i * 2654435761u) % 2001) - 1;
    return x;
}

/* r = x x^T, 14 products of n x n, q x: see plugins/optim/muon/newton_schulz.c. */
static void one_matrix(size_t n, size_t m, const float *x, float *y, float *r, float *q)
{
    dnnl_dim_t a = (dnnl_dim_t)n, b = (dnnl_dim_t)m;
    for (int twice = 0; twice < 2; twice++)
        dnnl_sgemm('N', 'T', a, a, b, 1, x, b, x, b, 0, r, a);
    for (int i = 0; i < 14; i++)
        dnnl_sgemm('N', 'N', a, a, a, 1, r, a, r, a, 0, q, a);
    for (int twice = 0; twice < 2; twice++)
        dnnl_sgemm('N', 'N', a, b, a, 1, r, a, x, b, 0, y, b);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    size_t count = strtoul(argv[1], NULL, 10), rows = strtoul(argv[2], NULL, 10),
           cols = strtoul(argv[3], NULL, 10), repeats = strtoul(argv[5], NULL, 10);
    size_t n = rows < cols ? rows : cols, m = rows < cols ? cols : rows;
    omp_set_num_threads(atoi(argv[4]));
    float *x = fill(n * m), *y = fill(n * m), *r = fill(n * n), *q = fill(n * n);
    double *times = calloc(repeats, sizeof *times);
    if (!x || !y || !r || !q || !times || !count || !repeats || n == m)
        return 1;
    for (size_t k = 0; k < repeats; k++) {
        double start = now_ms();
        for (size_t i = 0; i < count; i++)
            one_matrix(n, m, x, y, r, q);
        times[k] = now_ms() - start;
    }
    qsort(times, repeats, sizeof *times, ascending);
    double ms = times[repeats / 2], N = (double)n, M = (double)m;
    double full = 28 * N * N * N + 8 * N * N * M, halved = 14 * N * N * N + 6 * N * N * M;
    printf("{\"full_ms\": %.3f, \"halved_ms\": %.3f, \"gflops\": %.1f}\n", ms, ms * halved / full,
           full * (double)count / ms * 1e-6);
    return 0;
}
