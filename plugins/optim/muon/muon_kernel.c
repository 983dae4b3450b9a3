/* What Muon does to each element, before and after the iteration. */
#include "common/elementwise_kernel.h"
#include "optim/muon/muon.h"

SIMD_INLINE size_t lanes_from(size_t i, size_t count)
{
    return count - i < LANES ? count - i : LANES;
}

/* A number less itself is 0, and nothing else is. */
void SIMD_NAME(muon_look)(muon_run *run)
{
    float rest[LANES];
    vec sum = vec_all(0);
    for (size_t i = 0; i < run->count; i += LANES) {
        vec g = vec_load(run->grad, run->grad_dtype, i, lanes_from(i, run->count));
        sum = vec_add(sum, vec_sub(g, g));
    }
    vec_store(rest, ZDS_F32, 0, LANES, sum, false);
    run->finite = true;
    for (size_t k = 0; k < LANES; k++)
        run->finite = run->finite && rest[k] == 0;
}

/* m += (1 - beta) (g - m); x = g + beta (m - g) */
void SIMD_NAME(muon_blend)(muon_run *run)
{
    run->squares = 0;
    for (size_t first = 0; first < run->count; first += MUON_CHUNK) {
        size_t end = run->count - first < MUON_CHUNK ? run->count : first + MUON_CHUNK;
        for (size_t i = first; i < end; i += LANES) {
            size_t n = lanes_from(i, end);
            vec g = vec_mul(vec_load(run->grad, run->grad_dtype, i, n), vec_all(run->grad_scale));
            vec m = vec_load(run->momentum, run->momentum_dtype, i, n);
            if (!run->hold) {
                m = vec_fma(vec_all(run->one_minus_beta), vec_sub(g, m), m);
                elementwise_round(run->momentum, run->momentum_dtype, i, n, m, run->stochastic,
                                  run->first + (uint32_t)i, run->key, 0);
            }
            vec_store(run->x, ZDS_F32, i, n, vec_fma(vec_all(run->beta), vec_sub(m, g), g), false);
        }
        run->squares += elementwise_squares(run->x + first, end - first);
    }
}

void SIMD_NAME(muon_scale)(muon_run *run)
{
    for (size_t i = 0; i < run->count; i += LANES) {
        size_t n = lanes_from(i, run->count);
        vec x = vec_load(run->x, ZDS_F32, i, n);
        vec_store(run->x, ZDS_F32, i, n, vec_mul(x, vec_all(run->factor)), false);
    }
}

/* p = keep * p - factor * x */
void SIMD_NAME(muon_apply)(muon_run *run)
{
    for (size_t i = 0; i < run->count; i += LANES) {
        size_t n = lanes_from(i, run->count);
        vec p = vec_load(run->master, run->master_dtype, i, n);
        vec x = vec_load(run->x, ZDS_F32, i, n);
        p = vec_fma(vec_all(-run->factor), x, vec_mul(vec_all(run->keep), p));
        elementwise_round(run->master, run->master_dtype, i, n, p, run->stochastic,
                          run->first + (uint32_t)i, run->key, -1);
        if (run->output)
            vec_store(run->output, run->output_dtype, i, n, p, false);
    }
}
