/* The layout of spans: every trainable element has exactly one owner, parts are equal and aligned,
 * parameters that must not be cut are whole with owners that have about as much to do, grad
 * buffers never give one place to two spans at once. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "zero/layout.h"

typedef struct shape {
    uint32_t modules;
    uint64_t numels[6];
    uint32_t params_each;
} shape;

static zds_model *build(const shape *s, bool tied)
{
    zds_model *model = zds_model_create();
    for (uint32_t m = 0; m < s->modules; m++) {
        char name[32];
        snprintf(name, sizeof name, "m%u", m);
        cr_assert_eq(zds_model_add_module(model, name, NULL), ZDS_OK);
        for (uint32_t i = 0; i < s->params_each; i++) {
            int64_t numel = (int64_t)s->numels[(m * s->params_each + i) % 6];
            snprintf(name, sizeof name, "m%u.p%u", m, i);
            zds_param_desc desc = {.struct_size = sizeof desc,
                                   .name = name,
                                   .shape = &numel,
                                   .ndim = 1,
                                   .frozen = (m * s->params_each + i) % 5 == 4};
            cr_assert_eq(zds_model_add_param(model, m, &desc, NULL), ZDS_OK, "%s",
                         zds_model_error(model));
        }
    }
    if (tied)
        cr_assert_eq(zds_model_add_use(model, s->modules - 1, 0), ZDS_OK, "%s",
                     zds_model_error(model));
    return model;
}

static layout *create(const zds_model *model, layout_wish wish)
{
    layout *l = NULL;
    cr_assert_eq(layout_create(model, &wish, &l), ZDS_OK);
    return l;
}

static void check_owners(const layout *l, const zds_model *model, uint64_t align)
{
    for (uint32_t p = 0; p < model->param_count; p++) {
        uint64_t next = 0;
        for (uint32_t r = 0; r < l->world_size; r++) {
            layout_piece piece = layout_piece_of(l, model, p, r);
            if (!piece.count)
                continue;
            cr_assert_eq(piece.param_first, next,
                         "parameter %u: rank %u starts at %lu, expected %lu", p, r,
                         (unsigned long)piece.param_first, (unsigned long)next);
            cr_assert_eq(piece.param_first % align, 0);
            next = piece.param_first + piece.count;
        }
        cr_assert_eq(next, model->params[p].frozen ? 0 : model->params[p].numel);
        cr_assert_eq(l->places[p].first % align, 0);
        cr_assert_eq(l->spans[l->places[p].span].kind == SPAN_FROZEN, model->params[p].frozen);
    }
}

static void check_spans(const layout *l, uint64_t align)
{
    uint64_t at = 0;
    for (uint32_t k = 0; k < l->span_count; k++) {
        const layout_span *s = &l->spans[k];
        uint64_t next = 0;
        if (s->kind == SPAN_FROZEN)
            continue;
        cr_assert_eq(s->param_first, at);
        for (uint32_t r = 0; r < l->world_size; r++) {
            cr_assert_eq(layout_part_first(s, r), next);
            cr_assert_eq(layout_part_count(s, r) % align, 0);
            cr_assert(s->parts || layout_part_count(s, r) == s->part);
            next += layout_part_count(s, r);
        }
        cr_assert_eq(s->count, next);
        at += s->count;
    }
    cr_assert_eq(l->trainable, at);
}

/* A parameter that must not be cut is one rank's. */
static void check_whole(const layout *l, const zds_model *model, const double *whole)
{
    for (uint32_t p = 0; p < model->param_count; p++)
        for (uint32_t r = 0; whole[p] > 0 && !model->params[p].frozen && r < l->world_size; r++) {
            uint64_t count = layout_piece_of(l, model, p, r).count;
            cr_assert_eq(count, (int32_t)r == l->places[p].owner ? model->params[p].numel : 0);
        }
}

/* Walks a backward: at each module the open spans must not overlap in the buffers. */
static void check_buffers(const layout *l, const zds_model *model)
{
    for (uint32_t m = model->module_count; m-- > 0;)
        for (uint32_t a = 0; a < l->span_count; a++)
            for (uint32_t b = 0; b < a; b++) {
                const layout_span *x = &l->spans[a], *y = &l->spans[b];
                if (x->kind == SPAN_FROZEN || y->kind == SPAN_FROZEN)
                    continue;
                bool both = x->open_module >= m && m >= x->first_module && y->open_module >= m &&
                            m >= y->first_module;
                bool overlap = x->buffer_first < y->buffer_first + y->count &&
                               y->buffer_first < x->buffer_first + x->count;
                cr_assert(!(both && overlap && x->count && y->count),
                          "spans %u and %u share memory at module %u", a, b, m);
            }
}

Test(layout, every_element_has_one_owner)
{
    static const shape shapes[] = {{1, {5}, 1},
                                   {4, {1, 100, 0, 33, 64, 7}, 3},
                                   {6, {1000, 3, 3, 3, 2048, 1}, 2},
                                   {3, {0, 0, 0, 0, 0, 0}, 2}};
    static const uint64_t aligns[] = {16, 32, 96};
    static const uint64_t buckets[] = {1, 200, 500000000};
    static const double whole[18] = {1, 0, 5, 0, 0, 2, 3, 0, 0.5, 7};
    int count = 0;
    for (size_t s = 0; s < 4; s++)
        for (uint32_t world = 1; world <= 5; world++)
            for (size_t a = 0; a < 3; a++)
                for (size_t b = 0; b < 3; b++)
                    for (int kind = 0; kind < 4; kind++) {
                        bool tied = kind & 1;
                        if (tied && shapes[s].modules < 2)
                            continue;
                        zds_model *model = build(&shapes[s], tied);
                        layout_wish wish = {.world_size = world,
                                            .align = aligns[a],
                                            .bucket = buckets[b],
                                            .whole = kind & 2 ? whole : NULL};
                        layout *l = create(model, wish);
                        check_spans(l, aligns[a]);
                        if (wish.whole)
                            check_whole(l, model, whole);
                        check_owners(l, model, aligns[a]);
                        for (int overlap = 0; overlap < 2; overlap++) {
                            layout_plan_buffers(l, overlap);
                            check_buffers(l, model);
                        }
                        layout_destroy(l);
                        zds_model_destroy(model);
                        count++;
                    }
    cr_log_info("%d layouts", count);
}

/* The least that the busiest of `world` ranks can have, by trying everything. */
static double best_load(const double *costs, int count, double *busy, int world)
{
    double best = 0;
    if (!count) {
        for (int r = 0; r < world; r++)
            best = busy[r] > best ? busy[r] : best;
        return best;
    }
    best = 1e300;
    for (int r = 0; r < world; r++) {
        busy[r] += costs[0];
        double load = best_load(costs + 1, count - 1, busy, world);
        best = load < best ? load : best;
        busy[r] -= costs[0];
    }
    return best;
}

/* Graham 1969: the largest first is within 4/3 - 1/(3 world) of the best. */
Test(layout, owners_have_about_as_much_to_do)
{
    enum { COUNT = 9 };
    static const double costs[][COUNT] = {{5, 5, 4, 4, 3, 3, 3, 1, 1},
                                          {1, 1, 1, 1, 1, 1, 1, 1, 1},
                                          {100, 1, 1, 1, 1, 1, 1, 1, 1},
                                          {7, 3, 9, 2, 8, 6, 5, 4, 1}};
    for (size_t c = 0; c < sizeof costs / sizeof *costs; c++)
        for (int world = 1; world <= 3; world++) {
            zds_model *model = zds_model_create();
            static const int64_t extents[] = {4, 5};
            cr_assert_eq(zds_model_add_module(model, "m", NULL), ZDS_OK);
            for (int i = 0; i < COUNT; i++) {
                char name[8];
                snprintf(name, sizeof name, "p%d", i);
                zds_param_desc desc = {
                    .struct_size = sizeof desc, .name = name, .shape = extents, .ndim = 2};
                cr_assert_eq(zds_model_add_param(model, 0, &desc, NULL), ZDS_OK);
            }
            layout_wish wish = {
                .world_size = (uint32_t)world, .align = 16, .bucket = 1, .whole = costs[c]};
            layout *l = create(model, wish);
            double busy[3] = {0}, none[3] = {0}, most = 0;
            for (int i = 0; i < COUNT; i++)
                busy[l->places[i].owner] += costs[c][i];
            for (int r = 0; r < world; r++)
                most = busy[r] > most ? busy[r] : most;
            double best = best_load(costs[c], COUNT, none, world);
            cr_assert(most <= best * (4.0 / 3 - 1.0 / (3 * world)) + 1e-9,
                      "costs %zu, %d ranks: %g, the best is %g", c, world, most, best);
            layout_destroy(l);
            zds_model_destroy(model);
        }
}

Test(layout, buffers_of_equal_modules_hold_one_or_two)
{
    shape s = {8, {640, 640, 640, 640, 640, 640}, 1};
    zds_model *model = build(&s, false);
    layout *l = create(model, (layout_wish){.world_size = 2, .align = 32, .bucket = 1});
    layout_plan_buffers(l, false);
    cr_assert_eq(l->buffers, 640);
    layout_plan_buffers(l, true);
    cr_assert_eq(l->buffers, 1280);
    layout_destroy(l);
    zds_model_destroy(model);
}

Test(layout, small_modules_share_a_span_up_to_the_largest_module)
{
    zds_model *model = zds_model_create();
    static const int64_t sizes[] = {32, 32, 32, 128, 32};
    for (uint32_t m = 0; m < 5; m++) {
        char name[8];
        snprintf(name, sizeof name, "m%u", m);
        zds_model_add_module(model, name, NULL);
        zds_param_desc desc = {
            .struct_size = sizeof desc, .name = name, .shape = &sizes[m], .ndim = 1};
        cr_assert_eq(zds_model_add_param(model, m, &desc, NULL), ZDS_OK);
    }
    layout *l = create(model, (layout_wish){.world_size = 1, .align = 32, .bucket = 500000000});
    cr_assert_eq(l->span_count, 3);
    cr_assert_eq(l->spans[0].module_count, 3);
    layout_destroy(l);
    l = create(model, (layout_wish){.world_size = 1, .align = 32, .bucket = 64});
    cr_assert_eq(l->span_count, 4);
    layout_destroy(l);
    zds_model_destroy(model);
}

/* Blocks are not cut, and only the spans that have some pay for it. */
Test(layout, parts_hold_whole_blocks)
{
    static const uint32_t blocks[] = {96, 1, 64, 1, 1, 1};
    shape s = {3, {1000, 7, 333, 4096, 50, 1}, 2};
    zds_model *model = build(&s, false);
    for (uint32_t world = 1; world <= 4; world++) {
        layout *l = create(
            model,
            (layout_wish){.world_size = world, .align = 16, .bucket = 1, .granularity = blocks});
        for (uint32_t p = 0; p < model->param_count; p++)
            for (uint32_t r = 0; r < world; r++)
                cr_assert_eq(layout_piece_of(l, model, p, r).param_first % blocks[p], 0);
        cr_assert_eq(l->spans[l->places[1].span].count % (96 * world), 0);
        cr_assert_lt(l->spans[l->places[3].span].part, 4096 + 333 + 2 * 64 + 64);
        layout_destroy(l);
    }
    zds_model_destroy(model);
}

/* Where ranks keep parts: a module of much is a span of its own, trained or not, which is cut; one
 * that is kept is not, and one that modules share is by itself. */
Test(layout, spans_in_parts_are_of_one_module)
{
    shape s = {6, {100000, 90000, 80000, 70000, 60000, 5}, 1};
    const bool kept[6] = {false, false, true, false, false, false};
    zds_model *model = build(&s, true);
    for (uint32_t m = 1; m < 6; m++)
        model->params[m].frozen = m != 2;
    for (uint32_t world = 1; world <= 4; world++) {
        layout *l = create(model, (layout_wish){.world_size = world,
                                                .align = 16,
                                                .bucket = 1 << 30,
                                                .by_module = true,
                                                .in_parts = true,
                                                .kept = kept});
        for (uint32_t p = 0; p < 5; p++) {
            const layout_span *span = &l->spans[l->places[p].span];
            cr_expect_eq(span->param_count, 1, "parameter %u shares a span", p);
            cr_expect_eq(span->kept, p == 2);
            cr_expect_eq(span->kind, p == 0 || p == 2 ? SPAN_CUT : SPAN_FROZEN);
            cr_expect_eq(span->part * world, span->count, "parameter %u is not cut", p);
            cr_expect_lt(span->count, s.numels[p] + 16 * world);
            uint64_t held = 0;
            for (uint32_t r = 0; r < world; r++)
                held += layout_piece_of(l, model, p, r).count;
            cr_expect_eq(held, s.numels[p]);
        }
        layout_destroy(l);
    }
    zds_model_destroy(model);
}

/* Primes whose product is larger than any number of the machine. */
Test(layout, blocks_without_a_common_multiple_are_refused)
{
    static const uint32_t blocks[] = {4294967291u, 4294967279u, 4294967231u};
    shape s = {1, {1000, 7, 333}, 3};
    zds_model *model = build(&s, false);
    layout *l = NULL;
    layout_wish wish = {.world_size = 2, .align = 16, .bucket = 1, .granularity = blocks};
    cr_assert_eq(layout_create(model, &wish, &l), ZDS_ERR_UNSUPPORTED);
    cr_assert_null(l);
    zds_model_destroy(model);
}

Test(model, mistakes_are_refused_with_a_reason)
{
    zds_model *model = zds_model_create();
    int64_t bad = -1, huge[] = {1 << 30, 1 << 30}, one = 1;
    zds_param_desc desc = {.struct_size = sizeof desc, .name = "w", .shape = &bad, .ndim = 1};
    cr_assert_eq(zds_model_add_param(model, 0, &desc, NULL), ZDS_ERR_INVALID);
    cr_assert_eq(zds_model_add_module(model, "m", NULL), ZDS_OK);
    cr_assert_eq(zds_model_add_param(model, 0, &desc, NULL), ZDS_ERR_INVALID);
    desc.shape = huge;
    desc.ndim = 2;
    cr_assert_eq(zds_model_add_param(model, 0, &desc, NULL), ZDS_ERR_INVALID);
    desc.shape = &one;
    desc.ndim = 1;
    cr_assert_eq(zds_model_add_param(model, 0, &desc, NULL), ZDS_OK);
    cr_assert_eq(zds_model_add_param(model, 0, &desc, NULL), ZDS_ERR_INVALID);
    cr_assert_not_null(strstr(zds_model_error(model), "taken"), "%s", zds_model_error(model));
    cr_assert_eq(zds_model_add_use(model, 0, 0), ZDS_ERR_INVALID);
    cr_assert_eq(zds_model_add_use(model, 3, 0), ZDS_ERR_INVALID);
    zds_model_destroy(model);
}
