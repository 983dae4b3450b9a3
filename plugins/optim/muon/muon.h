/* Between Muon's plugin, its iteration and its kernels. */
#ifndef OPTIM_MUON_H
#define OPTIM_MUON_H

#include "common/elementwise.h"

/* === kernels: a run of elements === */

enum { MUON_CHUNK = 1024, MUON_RUN = 65536 }; /* elements of a partial sum, and of a task */

typedef struct muon_run {
    size_t count;
    void *master, *output, *momentum; /* output: NULL for none */
    const void *grad;
    float *x; /* [count] the matrix that is made orthogonal */
    zds_dtype master_dtype, output_dtype, momentum_dtype, grad_dtype;
    float grad_scale, beta, one_minus_beta;
    bool stochastic;     /* bfloat16 weights and momentum are rounded at random.. */
    uint32_t key, first; /* ..as elementwise's are; the run's first element in the parameter */
    bool hold;           /* the momentum stays as it is */
    float factor;        /* of x: its norm's inverse, or what takes it from the weight */
    float keep;          /* of the weight: 1 - lr * weight_decay */
    double squares;      /* out: of x */
    bool finite;         /* out: of the gradient */
} muon_run;

SIMD_DECLARE(void, muon_look, muon_run *run);  /* finite */
SIMD_DECLARE(void, muon_blend, muon_run *run); /* momentum, x and squares */
SIMD_DECLARE(void, muon_scale, muon_run *run); /* x *= factor */
SIMD_DECLARE(void, muon_apply, muon_run *run); /* master and output, from x */

typedef void (*muon_fn)(muon_run *run);

/* === the iteration === */

typedef struct muon_shape {
    uint64_t rows, cols;
    bool gram; /* the iteration on the Gram matrix */
} muon_shape;

/* Calls body(arg, i) for i < n: over the threads, or here where `host` is NULL. */
void muon_spread(const zds_host *host, size_t n, void (*body)(void *arg, size_t i), void *arg);

/* Floating point operations of one orthogonalisation. */
double muon_cost(const muon_shape *s);
/* Floats of `work` below. */
size_t muon_floats(const muon_shape *s);
/* Makes x[rows][cols], with which `work` begins and whose Frobenius norm is at most 1, nearly
 * orthogonal. `host` as above. False: a product failed. The bits do not depend on the number of
 * threads. */
bool muon_orthogonal(const zds_host *host, const muon_shape *s, float *work);

#endif
