/* Matrix products by oneDNN, one thread a call. */
#include "matmul.h"

#include <dnnl.h>

/* libgomp's or libomp's, whichever oneDNN was built with; absent where it is sequential. OpenMP
 * keeps the number per calling thread, so each thread of the pool says it once. */
extern void omp_set_num_threads(int) __attribute__((weak));
static _Thread_local bool told;

bool matmul(char op_a, char op_b, size_t m, size_t n, size_t k, float alpha, const float *a,
            size_t ld_a, const float *b, size_t ld_b, float beta, float *c, size_t ld_c)
{
    if (!told) {
        if (omp_set_num_threads)
            omp_set_num_threads(1);
        told = true;
    }
    return dnnl_sgemm(op_a, op_b, (dnnl_dim_t)m, (dnnl_dim_t)n, (dnnl_dim_t)k, alpha, a,
                      (dnnl_dim_t)ld_a, b, (dnnl_dim_t)ld_b, beta, c,
                      (dnnl_dim_t)ld_c) == dnnl_success;
}
