/* The table of keys itself: complete, consistent, and found by any spelling. */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "config/internal.h"

Test(config_fields, rows_are_consistent)
{
    field_index index;
    field_index_fill(&index);
    for (size_t i = 0; i < field_count(); i++) {
        const field *f = field_at(i);
        cr_expect_eq(field_find_path(&index, f->path), (int)i, "%s is there twice", f->path);
        cr_expect(f->doc && *f->doc, "%s has no doc", f->path);
        cr_expect(!strchr(f->path, '.') || field_parent(&index, (int)i) >= 0, "%s has no section",
                  f->path);
        cr_expect(!strchr(f->path, '.') || field_parent(&index, (int)i) < (int)i,
                  "%s comes before its section", f->path);
        cr_expect_eq(f->type == FIELD_ENUM, f->choices != NULL, "%s: choices", f->path);
        if (f->successor)
            cr_expect_geq(field_find_path(&index, f->successor), 0, "%s: successor", f->path);
        if (f->support == FIELD_REMOVED)
            cr_expect(f->reason, "%s is removed without a reason", f->path);
        cr_expect_not(f->flags & FIELD_MIN && f->flags & FIELD_ABOVE, "%s: two minima", f->path);
    }
}

/* A default is a value that the row accepts, and reads back as itself. */
Test(config_fields, defaults_are_valid)
{
    for (size_t i = 0; i < field_count(); i++) {
        const field *f = field_at(i);
        if (!f->fallback || f->type == FIELD_OBJECT)
            continue;
        cJSON *node = cJSON_Parse(f->fallback);
        if (!node || f->type == FIELD_STRING || f->type == FIELD_ENUM) {
            cJSON_Delete(node);
            node = cJSON_CreateString(f->fallback);
        }
        value read = {.node = node}, fallback;
        const char *wrong = value_read(f, node, &read);
        value_default(f, &fallback);
        cr_expect_null(wrong, "%s: default %s %s", f->path, f->fallback, wrong);
        cr_expect(value_is_default(f, &read), "%s: %s", f->path, f->fallback);
        if (f->type == FIELD_INT && !read.as_auto)
            cr_expect_eq(read.integer, fallback.integer, "%s", f->path);
        if (f->type == FIELD_FLOAT && !read.as_auto)
            cr_expect_eq(read.number, fallback.number, "%s", f->path);
        cJSON_Delete(node);
    }
}

/* tests/data/config/keys.txt: every key that DeepSpeed 0.19.8 reads, but for the plugins' own. */
Test(config_fields, all_keys_of_deepspeed_are_known)
{
    field_index index;
    field_index_fill(&index);
    FILE *in = fopen(TEST_DATA "/config/keys.txt", "r");
    char line[256];
    size_t count = 0;
    cr_assert(in);
    while (fgets(line, sizeof line, in)) {
        line[strcspn(line, "\n")] = '\0';
        cr_expect_geq(field_find_path(&index, line), 0, "%s is not in the table", line);
        count++;
    }
    fclose(in);
    cr_expect_gt(count, 300);
}

Test(config_fields, spellings)
{
    field_index index;
    field_index_fill(&index);
    int row = field_find_path(&index, "zero_optimization.prefetch_bucket_size");
    cr_assert_geq(row, 0);
    cr_expect_str_eq(field_at((size_t)row)->path, "zero_optimization.stage3_prefetch_bucket_size");
    row = field_find_path(&index, "tensor_parallel.tensor_parallel.tp_size");
    cr_assert_geq(row, 0);
    cr_expect_str_eq(field_at((size_t)row)->path, "tensor_parallel.tp.tp_size");
    row = field_find_path(&index, "data_efficiency.data_sampling.curriculum_learning."
                                  "curriculum_metrics.seqlen.min_difficulty");
    cr_expect_geq(row, 0);
    cr_expect_lt(field_find_path(&index, "zero_optimization.stag"), 0);
    cr_expect_lt(field_find_path(&index, ""), 0);
}

Test(config_fields, nearest)
{
    field_index index;
    field_index_fill(&index);
    const field *zero = field_at((size_t)field_find_path(&index, "zero_optimization"));
    cr_expect_str_eq(field_nearest(zero, "overlap_com"), "overlap_comm");
    cr_expect_str_eq(field_nearest(zero, "satge"), "stage");
    cr_expect_str_eq(field_nearest(zero, "max_live_parameter"), "max_live_parameters");
    cr_expect_str_eq(field_nearest(NULL, "gradient_cliping"), "gradient_clipping");
    cr_expect_str_eq(field_nearest(NULL, "train_microbatch_size_per_gpu"),
                     "train_micro_batch_size_per_gpu");
    cr_expect_null(field_nearest(NULL, "something_else_entirely"));
    cr_expect_null(field_nearest(NULL, ""));
    cr_expect_str_eq(zds_config_nearest_key("zero_optimisation.stage"), "zero_optimization.stage");
}
