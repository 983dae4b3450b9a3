/* Matrix products by oneDNN, one thread a call: the engine's pool is the only source of threads. */
#ifndef ZDS_TRAIN_MATMUL_H
#define ZDS_TRAIN_MATMUL_H

#include <stdbool.h>
#include <stddef.h>

/* C (m, n) = alpha * op(A) op(B) + beta * C, row-major with leading dimensions; op(A) is (m, k):
 * 'N' as stored, 'T' transposed. False if there is no memory. */
bool matmul(char op_a, char op_b, size_t m, size_t n, size_t k, float alpha, const float *a,
            size_t ld_a, const float *b, size_t ld_b, float beta, float *c, size_t ld_c);

#endif
