/* The collectives of an MPI library: what bench/run.py holds `zds-bench comm` against.
 *
 *     mpicc -O3 comm_mpi.c -o comm_mpi && mpirun -n 2 comm_mpi reduce_scatter 67108864 15
 *
 * Prints on rank 0 {"ms": median}, the slowest rank's time from a barrier on; the bytes are the
 * full fp32 vector of a rank. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int repeats = argc == 4 ? atoi(argv[3]) : 0;
    if (repeats < 1) {
        fprintf(stderr, "usage: comm_mpi reduce_scatter|all_gather BYTES REPEATS\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    int scatters = strcmp(argv[1], "reduce_scatter") == 0;
    size_t count = strtoull(argv[2], NULL, 10) / sizeof(float);
    int part = (int)(count / (size_t)size);
    float *src = malloc(count * sizeof *src), *dst = malloc(count * sizeof *dst);
    double *ms = malloc((size_t)repeats * sizeof *ms);
    if (!src || !dst || !ms)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (size_t i = 0; i < count; i++)
        src[i] = dst[i] = 1;
    for (int i = -2; i < repeats; i++) { /* two to warm up */
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime(), took, slowest;
        if (scatters)
            MPI_Reduce_scatter_block(src, dst, part, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        else
            MPI_Allgather(src, part, MPI_FLOAT, dst, part, MPI_FLOAT, MPI_COMM_WORLD);
        took = (MPI_Wtime() - start) * 1e3;
        MPI_Allreduce(&took, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        if (i >= 0)
            ms[i] = slowest;
    }
    qsort(ms, (size_t)repeats, sizeof *ms, by_value);
    if (rank == 0)
        printf("{\"ms\": %.4f}\n", ms[repeats / 2]);
    free(src);
    free(dst);
    free(ms);
    MPI_Finalize();
    return 0;
}
