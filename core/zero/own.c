/* Gradients that stay each rank's own, for an optimizer that reduces them by itself: all that the
 * engine takes from them is their norm. Sums as elsewhere: in chunks of 1024, added in chunk order
 * within a part, parts in order, so that the bits do not depend on threads. */
#include "engine/internal.h"
#include "host/kernels.h"

typedef struct own_pass {
    const zds_engine *e;
    const char *grad;
    uint64_t count;
} own_pass;

static void sum_part(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const own_pass *p = arg;
    size_t size = zds_dtype_size(p->e->set.accum_dtype);
    uint64_t first = i * (uint64_t)TILE_ELEMENTS;
    uint64_t end = p->count - first < TILE_ELEMENTS ? p->count : first + TILE_ELEMENTS;
    norm_part part = {0};
    for (uint64_t k = first; k < end; k += LAYOUT_CHUNK)
        part.sum_squares +=
            kernel_chunk_sum(p->grad + k * size, p->e->set.accum_dtype,
                             end - k < LAYOUT_CHUNK ? end - k : LAYOUT_CHUNK, &part.non_finite);
    p->e->own_parts[i] = part;
}

void own_statistics(zds_engine *e, uint32_t k)
{
    const layout_span *span = &e->lay->spans[k];
    span_run *run = &e->span_runs[k];
    run->own_sum_squares = 0;
    run->non_finite = 0;
    for (uint32_t i = 0; i < span->param_count; i++) {
        uint32_t param = span->params[i];
        own_pass p = {.e = e,
                      .grad = (const char *)e->grads.base +
                              e->lay->places[param].first * zds_dtype_size(e->set.accum_dtype),
                      .count = e->model->params[param].numel};
        size_t parts = (size_t)((p.count + TILE_ELEMENTS - 1) / TILE_ELEMENTS);
        pool_run(e->threads, parts, sum_part, &p);
        for (size_t j = 0; j < parts; j++) {
            run->own_sum_squares += e->own_parts[j].sum_squares;
            run->non_finite += e->own_parts[j].non_finite;
        }
    }
}
