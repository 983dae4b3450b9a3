/* The mean of the ranks' vectors with one bit an element on the wire, and error feedback on both
 * sides: Tang et al. 2021, "1-bit Adam: Communication Efficient Large-Scale Training with Adam's
 * Convergence Speed", algorithm 1 and section 4.2, in the form of DeepSpeed 0.16's
 * compressed_allreduce. For each vector x of n elements, padded by zeros to N, a multiple of
 * W * 8W / gcd(W, 8) on W ranks:
 *
 *     worker:  x += worker error;  s = |x| / sqrt(N);  send sign(x), s
 *              worker error = x - s sign(x)
 *     server of a W-th of the elements:
 *              y = mean of s sign(x) + server error;  t = |y| / sqrt(N/W);  send sign(y), t
 *              server error = y - t sign(y)
 *     mean = t sign(y), with sign(0) = 1
 *
 * All vectors of a call travel together: one all-to-all, one all-gather. */
#ifndef OPTIM_ONEBIT_AVERAGE_H
#define OPTIM_ONEBIT_AVERAGE_H

#include "optim/onebit/kernels.h"

enum { AVERAGE_BLOCK = 4096 }; /* elements of the largest piece that is worked on at once */

typedef struct average_vector {
    uint64_t count;         /* elements; 0: this vector does not take part */
    float *worker, *server; /* errors: [padded], [padded / world]; not used on one rank */
} average_vector;

/* What is averaged comes and goes in blocks, several threads at once, each with another block:
 * elements [first, first + count) of a vector. `block` counts the blocks of all vectors, in order.
 * On all ranks the same. */
typedef struct average_work {
    size_t count;
    const average_vector *vectors;
    void (*load)(void *user, size_t vector, size_t block, uint64_t first, size_t count, float *out);
    void (*store)(void *user, size_t vector, size_t block, uint64_t first, size_t count,
                  const float *mean);
    void *user;
} average_work;

typedef struct average_plan average_plan;

/* Buffers, kept from call to call. */
typedef struct average {
    const zds_host *host;
    const onebit_kernels *kernels;
    int32_t world, rank;
    average_plan *plan; /* of the vectors of the last call */
} average;

/* Elements of a vector with its padding. */
uint64_t average_padded(uint64_t count, int32_t world);

/* How many blocks a call over these vectors has, for what is kept a block. */
size_t average_blocks(const average *a, const average_work *work);

/* Takes the memory that calls over these vectors need, without touching what has their size. */
zds_status average_prepare(average *a, const average_work *work);

/* Collective. A failure of `comm` comes back with its text. */
zds_status average_run(average *a, const average_work *work, const zds_comm_ops *comm,
                       void *comm_self);
void average_release(average *a);

/* The elements of a block of the last call that are no padding: how many, and the first. */
size_t average_stretch(const average *a, size_t i, uint64_t *first);

/* Collective: every rank's bytes to all[world][bytes]. */
zds_status average_gather(const zds_comm_ops *comm, void *comm_self, const void *mine, void *all,
                          uint64_t bytes);

#endif
