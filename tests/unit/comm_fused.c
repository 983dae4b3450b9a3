/* Fused reductions: every kernel set against zds_fused's formula element by element and bit by bit,
 * and the plugins' reduce_scatter against the same. */
#include <criterion/criterion.h>

#include "comm_values.h"
#include "common/reduce.h"
#include "common/simd_level.h"

enum { RANKS = 3, COUNT = 70003, SEGMENTS = 3 };

/* Not multiples of a chunk, with gaps, over more than one thread's item. */
static const zds_segment segments[SEGMENTS] = {{0, 1500}, {1600, 64000}, {66000, 4003}};

static uint64_t chunk_total(void)
{
    uint64_t n = 0;
    for (int s = 0; s < SEGMENTS; s++)
        n += (segments[s].count + 1023) / 1024;
    return n;
}

/* Values with all bits in use, the same in the test and the formula. */
static double noise(int32_t r, uint64_t i)
{
    uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ULL + (uint64_t)r * 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 29;
    x *= 0x94d049bb133111ebULL;
    return ((double)(x >> 40) / (1 << 24) - 0.5) * (i % 97 == 0 ? 1e-6 : 3.0);
}

static double rounded(double v, zds_dtype dtype)
{
    uint64_t room;
    set_value(&room, dtype, 0, v);
    return get_value(&room, dtype, 0);
}

typedef struct wanted {
    zds_dtype src, dst;
    bool accumulate;
    double prescale, postscale;
} wanted;

/* The formula of zds_fused for element i of the reduction over `ranks`. */
static double formula(const wanted *w, int32_t ranks, uint64_t i, double before)
{
    float sum = 0;
    for (int32_t r = 0; r < ranks; r++) {
        float scaled = (float)w->prescale * (float)rounded(noise(r, i), w->src);
        sum = r ? sum + scaled : scaled;
    }
    float result = (float)w->postscale * sum;
    if (w->accumulate)
        result = (float)before + result;
    return rounded(result, w->dst);
}

static double chunk_formula(const void *dst, zds_dtype dtype, uint64_t first, uint64_t n)
{
    double part[16] = {0};
    for (uint64_t i = 0; i < n; i++) {
        double v = get_value(dst, dtype, first + i);
        part[i % 16] += v * v;
    }
    for (int half = 8; half; half /= 2)
        for (int k = 0; k < half; k++)
            part[k] += part[k + half];
    return part[0];
}

static bool statistics_right(const void *dst, zds_dtype dtype, const double *sums, uint64_t count)
{
    uint64_t chunk = 0;
    for (int s = 0; s < SEGMENTS && segments[s].first + segments[s].count <= count; s++)
        for (uint64_t at = 0; at < segments[s].count; at += 1024, chunk++) {
            uint64_t n = segments[s].count - at < 1024 ? segments[s].count - at : 1024;
            double want = chunk_formula(dst, dtype, segments[s].first + at, n);
            if (memcmp(&sums[chunk], &want, sizeof want) != 0)
                return false;
        }
    return true;
}

static const zds_dtype floats[] = {ZDS_F32, ZDS_BF16, ZDS_F16};

static int best_level(void)
{
    int level = 0;
    cr_assert_eq(simd_level(&test_host, &level), ZDS_OK);
    return level;
}

static void check_kernels(int level, const wanted *w)
{
    const void *sources[RANKS];
    size_t src_size = zds_dtype_size(w->src), dst_size = zds_dtype_size(w->dst);
    for (int32_t r = 0; r < RANKS; r++) {
        char *s = host_alloc(NULL, COUNT * src_size, 0);
        for (uint64_t i = 0; i < COUNT; i++)
            set_value(s, w->src, i, noise(r, i));
        sources[r] = s;
    }
    char *dst = host_alloc(NULL, COUNT * dst_size, 0),
         *before = host_alloc(NULL, COUNT * dst_size, 0);
    for (uint64_t i = 0; i < COUNT; i++)
        set_value(before, w->dst, i, noise(9, i));
    memcpy(dst, before, COUNT * dst_size);
    double *sums = calloc(chunk_total(), sizeof *sums);
    uint64_t bad = 99;
    reduce_task task = {.sources = sources,
                        .ranks = RANKS,
                        .src_dtype = w->src,
                        .dst_dtype = w->dst,
                        .dst = dst,
                        .count = COUNT,
                        .prescale = w->prescale,
                        .postscale = w->postscale,
                        .accumulate = w->accumulate,
                        .statistics = true,
                        .segments = segments,
                        .segment_stride = sizeof *segments,
                        .segment_count = SEGMENTS,
                        .chunk_sums = sums,
                        .non_finite = &bad};
    reduce_fused_with(&test_host, &task, reduce_kernels_at(level));
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < COUNT; i++)
        wrong += get_value(dst, w->dst, i) != formula(w, RANKS, i, get_value(before, w->dst, i));
    cr_expect_eq(wrong, 0, "level %d, %d to %d accumulate %d: %llu elements differ", level,
                 (int)w->src, (int)w->dst, w->accumulate, (unsigned long long)wrong);
    cr_expect(statistics_right(dst, w->dst, sums, COUNT), "level %d, %d to %d: chunk sums", level,
              (int)w->src, (int)w->dst);
    cr_expect_eq(bad, 0);
    for (int32_t r = 0; r < RANKS; r++)
        free((void *)(uintptr_t)sources[r]);
    free(dst);
    free(before);
    free(sums);
}

Test(comm_fused, kernels, .timeout = 120)
{
    for (int level = 0; level <= best_level(); level++)
        for (int c = 0; c < 18; c++) {
            wanted w = {floats[c % 3], floats[c / 3 % 3], c >= 9, 0.25, 1.0 / RANKS};
            check_kernels(level, &w);
        }
}

/* All 65536 values of both 16-bit types, and roundings in both directions of a sample of fp32. */
Test(comm_fused, conversions)
{
    static float wide[65536];
    static uint16_t in[65536], out[65536];
    for (int level = 0; level <= best_level(); level++)
        for (int type = 1; type < 3; type++) {
            uint64_t wrong = 0;
            for (uint32_t i = 0; i < 65536; i++)
                in[i] = (uint16_t)i;
            reduce_kernels_at(level)->widen(wide, in, 65536, floats[type]);
            reduce_kernels_at(level)->narrow(out, wide, 65536, floats[type]);
            for (uint32_t i = 0; i < 65536; i++) {
                double want = get_value(in, floats[type], i);
                wrong += isnan(want) ? !isnan(wide[i]) || !isnan(get_value(out, floats[type], i))
                                     : wide[i] != want || out[i] != in[i];
            }
            for (uint32_t i = 0; i < 65536; i++)
                wide[i] = (float)ldexp(noise(1, i), (int)(i % 50) - 30);
            reduce_kernels_at(level)->narrow(out, wide, 65536, floats[type]);
            for (uint32_t i = 0; i < 65536; i++)
                wrong += get_value(out, floats[type], i) != rounded(wide[i], floats[type]);
            cr_expect_eq(wrong, 0, "level %d, dtype %d: %llu", level, (int)floats[type],
                         (unsigned long long)wrong);
        }
}

Test(comm_fused, counts_what_is_not_finite)
{
    float x[2000];
    for (int i = 0; i < 2000; i++)
        x[i] = 1;
    x[5] = INFINITY;
    x[1023] = -INFINITY;
    x[1500] = NAN;
    x[1999] = NAN; /* outside the segment */
    zds_segment segment = {0, 1999};
    double sums[2];
    for (int level = 0; level <= best_level(); level++) {
        const void *source = x;
        uint64_t bad = 0;
        reduce_task task = {.sources = &source,
                            .ranks = 1,
                            .src_dtype = ZDS_F32,
                            .dst_dtype = ZDS_F32,
                            .dst = x,
                            .count = 2000,
                            .prescale = 1,
                            .postscale = 1,
                            .statistics = true,
                            .segments = &segment,
                            .segment_stride = sizeof segment,
                            .segment_count = 1,
                            .chunk_sums = sums,
                            .non_finite = &bad};
        reduce_fused_with(&test_host, &task, reduce_kernels_at(level));
        cr_expect_eq(bad, 3, "level %d", level);
        cr_expect(isinf(sums[0]) && isnan(sums[1]));
    }
}

/* === through the plugins === */

typedef struct plugin_case {
    wanted w;
    bool region, in_place;
} plugin_case;

/* reduce: the last rank gets the sum of all ranks' first COUNT elements. */
static void fused_root(const rank *me, const plugin_case *p, char *src)
{
    const wanted *w = &p->w;
    bool root = me->rank == me->size - 1;
    char *dst = root ? host_alloc(NULL, COUNT * zds_dtype_size(w->dst), 0) : NULL;
    double *sums = calloc(chunk_total(), sizeof *sums);
    uint64_t bad = 99;
    for (uint64_t i = 0; root && i < COUNT; i++)
        set_value(dst, w->dst, i, noise(9, i));
    zds_fused fused = {.struct_size = sizeof fused,
                       .prescale = w->prescale,
                       .postscale = w->postscale,
                       .accumulate = w->accumulate,
                       .segments = root ? segments : NULL,
                       .segment_stride = sizeof *segments,
                       .segment_count = root ? SEGMENTS : 0,
                       .chunk_sums = sums,
                       .non_finite = &bad};
    zds_coll c = {.struct_size = sizeof c,
                  .src = src,
                  .dst = dst,
                  .count = COUNT,
                  .peer = me->size - 1,
                  .src_dtype = w->src,
                  .dst_dtype = w->dst,
                  .fused = &fused};
    zds_event *done = NULL;
    NEED(!me->ops->reduce(me->self, &c, &done) && !finish(done), "reduce");
    for (uint64_t i = 0; root && i < COUNT; i++) {
        double want = formula(w, me->size, i, rounded(noise(9, i), w->dst));
        NEED(get_value(dst, w->dst, i) == want, "reduce, element %llu: %.9g, not %.9g",
             (unsigned long long)i, get_value(dst, w->dst, i), want);
    }
    NEED(!root || (statistics_right(dst, w->dst, sums, COUNT) && bad == 0), "statistics of reduce");
    free(dst);
    free(sums);
}

static void fused_rank(const rank *me, const plugin_case *p)
{
    const wanted *w = &p->w;
    size_t src_size = zds_dtype_size(w->src), dst_size = zds_dtype_size(w->dst);
    uint64_t all = COUNT * (uint64_t)me->size, first = COUNT * (uint64_t)me->rank;
    zds_region region = {.struct_size = sizeof region};
    char *src, *own = NULL, *dst, *dst_own = host_alloc(NULL, COUNT * dst_size, 0);
    if (p->region) {
        NEED(!me->ops->mem_alloc(me->self, all * src_size, ZDS_MEM_SYMMETRIC, &region), "alloc");
        src = region.base;
    } else {
        src = own = host_alloc(NULL, all * src_size, 0);
    }
    for (uint64_t i = 0; i < all; i++)
        set_value(src, w->src, i, noise(me->rank, i));
    if (!p->in_place)
        fused_root(me, p, src);
    dst = p->in_place ? src + first * src_size : dst_own;
    for (uint64_t i = 0; i < COUNT && !p->in_place; i++)
        set_value(dst, w->dst, i, noise(9, i));
    double *sums = calloc(chunk_total(), sizeof *sums);
    uint64_t bad = 99;
    zds_fused fused = {.struct_size = sizeof fused,
                       .prescale = w->prescale,
                       .postscale = w->postscale,
                       .accumulate = w->accumulate,
                       .segments = segments,
                       .segment_stride = sizeof *segments,
                       .segment_count = SEGMENTS,
                       .chunk_sums = sums,
                       .non_finite = &bad};
    zds_coll c = {.struct_size = sizeof c,
                  .src = src,
                  .dst = dst,
                  .count = COUNT,
                  .src_dtype = w->src,
                  .dst_dtype = w->dst,
                  .fused = &fused};
    zds_event *done = NULL;
    NEED(!me->ops->reduce_scatter(me->self, &c, &done) && !finish(done), "reduce_scatter");
    for (uint64_t i = 0; i < COUNT; i++) {
        double want = formula(w, me->size, first + i, rounded(noise(9, i), w->dst));
        NEED(get_value(dst, w->dst, i) == want, "%d to %d, region %d, element %llu: %.9g, not %.9g",
             (int)w->src, (int)w->dst, p->region, (unsigned long long)i, get_value(dst, w->dst, i),
             want);
    }
    NEED(statistics_right(dst, w->dst, sums, COUNT) && bad == 0, "statistics, region %d",
         p->region);
    if (p->region)
        me->ops->mem_free(me->self, &region);
    free(own);
    free(dst_own);
    free(sums);
}

static void fused_ranks(rank *me, void *arg)
{
    (void)arg;
    for (int c = 0; c < 36; c++) {
        plugin_case p = {.w = {floats[c % 3], floats[c / 3 % 3], c / 9 % 2, 1, 1.0 / me->size},
                         .region = c >= 18};
        fused_rank(me, &p);
        if (p.w.src != p.w.dst || p.w.accumulate)
            continue;
        p.in_place = true;
        fused_rank(me, &p);
    }
}

Test(comm_fused, self)
{
    world_run w = {.plugin = "self", .size = 1, .timeout_ms = 20000, .body = fused_ranks};
    cr_expect_eq(run_world(&w), 0);
}

Test(comm_fused, shm, .timeout = 120)
{
    for (int32_t n = 1; n <= 4; n++) {
        world_run w = {.plugin = "shm", .size = n, .timeout_ms = 20000, .body = fused_ranks};
        cr_expect_eq(run_world(&w), 0, "%d ranks", (int)n);
    }
}

/* Where nothing changes, not even a page without the right to write is touched. */
static void read_only_pass(rank *me, void *arg)
{
    (void)arg;
    zds_region region = {.struct_size = sizeof region};
    NEED(!me->ops->mem_alloc(me->self, COUNT * 4, ZDS_MEM_SYMMETRIC, &region), "alloc");
    for (uint64_t i = 0; i < COUNT; i++)
        ((float *)region.base)[i] = (float)noise(0, i);
    double *sums = calloc(chunk_total(), sizeof *sums);
    uint64_t bad = 99;
    zds_fused fused = {.struct_size = sizeof fused,
                       .prescale = 1,
                       .postscale = 1,
                       .segments = segments,
                       .segment_stride = sizeof *segments,
                       .segment_count = SEGMENTS,
                       .chunk_sums = sums,
                       .non_finite = &bad};
    void *view = (void *)(uintptr_t)region.read_only;
    zds_coll c = {
        .struct_size = sizeof c, .src = view, .dst = view, .count = COUNT, .fused = &fused};
    zds_event *done = NULL;
    NEED(!me->ops->reduce_scatter(me->self, &c, &done) && !finish(done), "reduce_scatter");
    NEED(statistics_right(view, ZDS_F32, sums, COUNT) && bad == 0, "statistics");
    free(sums);
    me->ops->mem_free(me->self, &region);
}

Test(comm_fused, reads_only_where_nothing_changes)
{
    const char *const plugins[] = {"self", "shm"};
    for (int i = 0; i < 2; i++) {
        world_run w = {.plugin = plugins[i], .size = 1, .timeout_ms = 5000, .body = read_only_pass};
        cr_expect_eq(run_world(&w), 0, "%s", plugins[i]);
    }
}
