/* The layout of spans: every trainable element has exactly one owner, slices are equal and aligned,
 * the pool never gives one place to two spans at once. */
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
    }
}

static void check_spans(const layout *l, uint64_t align)
{
    uint64_t at = 0, shard = 0;
    for (uint32_t k = 0; k < l->span_count; k++) {
        const layout_span *s = &l->spans[k];
        cr_assert_eq(s->first, at);
        cr_assert_eq(s->count, s->slice * l->world_size);
        cr_assert_eq(s->slice % align, 0);
        cr_assert_eq(s->shard_first, shard);
        at += s->count;
        shard += s->slice;
    }
    cr_assert_eq(l->trainable, at);
    cr_assert_eq(l->shard, shard);
}

/* Walks a backward: at each module the open spans must not overlap in the pool. */
static void check_pool(const layout *l, const zds_model *model)
{
    for (uint32_t m = model->module_count; m-- > 0;)
        for (uint32_t a = 0; a < l->span_count; a++)
            for (uint32_t b = 0; b < a; b++) {
                const layout_span *x = &l->spans[a], *y = &l->spans[b];
                bool both = x->open_module >= m && m >= x->first_module && y->open_module >= m &&
                            m >= y->first_module;
                bool overlap = x->pool_first < y->pool_first + y->count &&
                               y->pool_first < x->pool_first + x->count;
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
    int count = 0;
    for (size_t s = 0; s < 4; s++)
        for (uint32_t world = 1; world <= 5; world++)
            for (size_t a = 0; a < 3; a++)
                for (size_t b = 0; b < 3; b++)
                    for (int tied = 0; tied < 2; tied++) {
                        if (tied && shapes[s].modules < 2)
                            continue;
                        zds_model *model = build(&shapes[s], tied);
                        layout *l = layout_create(model, world, aligns[a], buckets[b]);
                        cr_assert_not_null(l);
                        check_spans(l, aligns[a]);
                        check_owners(l, model, aligns[a]);
                        for (int overlap = 0; overlap < 2; overlap++) {
                            layout_plan_pool(l, overlap);
                            check_pool(l, model);
                        }
                        layout_destroy(l);
                        zds_model_destroy(model);
                        count++;
                    }
    cr_log_info("%d layouts", count);
}

Test(layout, the_pool_of_equal_modules_holds_one_or_two)
{
    shape s = {8, {640, 640, 640, 640, 640, 640}, 1};
    zds_model *model = build(&s, false);
    layout *l = layout_create(model, 2, 32, 1);
    layout_plan_pool(l, false);
    cr_assert_eq(l->pool, 640);
    layout_plan_pool(l, true);
    cr_assert_eq(l->pool, 1280);
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
    layout *l = layout_create(model, 1, 32, 500000000);
    cr_assert_eq(l->span_count, 3);
    cr_assert_eq(l->spans[0].module_count, 3);
    layout_destroy(l);
    l = layout_create(model, 1, 32, 64);
    cr_assert_eq(l->span_count, 4);
    layout_destroy(l);
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
