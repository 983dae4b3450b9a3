/* Initial values that every rank reads itself: what is read where, that it is the same as from rank
 * 0, and what ranks hear that read something else. */
#include "engine_world.h"
#include "small_model.h"

static zds_engine *open_engine(const char *json, int size, bool everywhere)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL; /* stays as long as the process */
    zds_model *model = NULL;
    zds_engine *e = NULL;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = size};
    const zds_engine_options o = {.struct_size = sizeof o,
                                  .threads = 1,
                                  .optimizer = "AdamW",
                                  .values_everywhere = everywhere};
    NEED(!zds_config_load(where_config(json), &context, &config, &error), "%s", error.text);
    NEED(!small_model(&model), "model");
    NEED(!zds_engine_create(config, model, &o, &e, &error), "%s: %s", json, error.text);
    zds_model_destroy(model);
    return e;
}

static const char *at_stage(int stage, const char *more)
{
    static char json[300];
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d}%s}",
             stage, more);
    return json;
}

static uint64_t numel_of(uint32_t param)
{
    const uint64_t w = (uint64_t)small_width;
    const uint64_t numel[SMALL_PARAMS] = {6 * w * w, 3 * w * w, 3 * w, 3 * w * w, w * w, w + 1, w};
    return numel[param];
}

/* What was read, and how the reader is to fail. */
typedef struct reader {
    double read[SMALL_PARAMS]; /* elements */
    zds_status fails;
    int64_t differs; /* one parameter is another one; -1: none */
} reader;

static zds_status count_values(void *user, uint32_t param, uint64_t first, uint64_t count,
                               float *out)
{
    reader *r = user;
    r->read[param] += (double)count;
    small_values(NULL, param, first, count, out);
    out[0] += r->differs == (int64_t)param;
    return param == SMALL_PARAMS / 2 ? r->fails : ZDS_OK;
}

static void same_as_from_rank_0(int rank, int size)
{
    static const char *const precisions[] = {"", ", \"bf16\": {\"enabled\": true}"};
    for (int stage = 0; stage <= 3; stage++)
        for (int p = 0; p < 2; p++) {
            reader r = {.differs = -1};
            small_sum one, sum;
            zds_engine *first = open_engine(at_stage(stage, precisions[p]), size, false);
            zds_engine *e = open_engine(at_stage(stage, precisions[p]), size, true);
            NEED(!zds_set_values(first, small_values, NULL), "%s", zds_engine_error(first));
            NEED(!zds_set_values(e, count_values, &r), "%s", zds_engine_error(e));
            for (uint64_t micro = 0; micro < 2; micro++)
                NEED(!small_micro(e, ZDS_BOUNDARY_AUTO, micro, NULL) &&
                         !small_micro(first, ZDS_BOUNDARY_AUTO, micro, NULL),
                     "%s", zds_engine_error(e));
            NEED(!small_hash(first, &one) && !small_hash(e, &sum), "%s", zds_engine_error(e));
            NEED(rank || one.hash == sum.hash, "stage %d: other values", stage);
            NEED(!zds_sum_over_ranks(e, r.read, SMALL_PARAMS), "%s", zds_engine_error(e));
            /* Pages that are the node's are read once, and parts by whom they belong to. */
            bool shared = stage && size > 1 && (!on_island() || stage == 3);
            for (uint32_t i = 0; i < SMALL_PARAMS; i++) {
                uint64_t numel = numel_of(i);
                /* and once more, one chunk, the last of which may be short */
                uint64_t chunk = numel < 1024 ? numel : 1024;
                double all = (double)(shared ? numel : numel * (uint64_t)size);
                NEED(r.read[i] > all && r.read[i] <= all + (double)(chunk * (uint64_t)size),
                     "parameter %u: %g elements of %g were read", i, r.read[i], all);
            }
            zds_engine_destroy(e);
            zds_engine_destroy(first);
        }
}

Test(engine_values, every_rank_reads_what_it_keeps)
{
    run(1, true, same_as_from_rank_0);
    run(2, true, same_as_from_rank_0);
    run(3, true, same_as_from_rank_0);
}

static void fails(int rank, int size)
{
    reader r = {.differs = -1, .fails = rank == 1 ? ZDS_ERR_IO : ZDS_OK};
    zds_engine *e = open_engine(at_stage(1, ""), size, true);
    zds_status status = zds_set_values(e, count_values, &r);
    NEED(status == ZDS_ERR_IO && strstr(zds_engine_error(e), "on rank 1"), "%s",
         zds_engine_error(e));
    NEED(zds_micro_begin(e, ZDS_BOUNDARY_AUTO) == ZDS_ERR_INVALID, "there are no values");
    r.fails = ZDS_OK; /* and once more */
    NEED(!zds_set_values(e, count_values, &r), "%s", zds_engine_error(e));
    NEED(!small_micro(e, ZDS_BOUNDARY_AUTO, 0, NULL), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

Test(engine_values, a_rank_that_cannot_read_is_named)
{
    run(2, true, fails);
}

static void differs(int rank, int size)
{
    reader r = {.differs = rank == 1 ? 1 : -1};
    zds_engine *e = open_engine(at_stage(2, ""), size, true);
    zds_status status = zds_set_values(e, count_values, &r);
    NEED(status == ZDS_ERR_DIVERGED && strstr(zds_engine_error(e), "h.0.up.weight"), "%s: %s",
         zds_status_name(status), zds_engine_error(e));
    NEED(zds_barrier(e) != ZDS_OK, "it goes on");
    zds_engine_destroy(e);
}

Test(engine_values, other_values_are_named)
{
    run(2, true, differs);
    run(3, true, differs);
}

static void one_everywhere(int rank, int size)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = NULL;
    zds_engine *e = NULL;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = size};
    const zds_engine_options o = {.struct_size = sizeof o,
                                  .threads = 1,
                                  .optimizer = "AdamW",
                                  .values_everywhere = rank == 1};
    NEED(!zds_config_load(where_config(at_stage(1, "")), &context, &config, &error), "%s",
         error.text);
    NEED(!small_model(&model), "model");
    NEED(zds_engine_create(config, model, &o, &e, &error) == ZDS_ERR_DIVERGED &&
             strstr(error.text, "values_everywhere"),
         "%s", error.text);
}

Test(engine_values, all_ranks_say_so_or_none)
{
    run(2, true, one_everywhere);
}

/* === ranks that do not want the same, and programs that end the run within a callback === */

static zds_status ignore(void *user, uint32_t param, uint64_t first, uint64_t count,
                         const float *values)
{
    (void)user, (void)param, (void)first, (void)count, (void)values;
    return ZDS_OK;
}

static zds_status fail_reading(void *user, uint32_t param, uint64_t first, uint64_t count,
                               float *out)
{
    (void)param, (void)first, (void)count, (void)out;
    return zds_fail(user, ZDS_ERR_FORMAT, "the file is torn");
}

static zds_status fail_writing(void *user, uint32_t param, uint64_t first, uint64_t count,
                               const float *values)
{
    (void)param, (void)first, (void)count, (void)values;
    return zds_fail(user, ZDS_ERR_IO, "the disk is full");
}

static void other_wishes(int rank, int size)
{
    for (int stage = 0; stage <= 3; stage++) {
        zds_engine *e = open_engine(at_stage(stage, ""), size, false);
        /* Only rank 0 reads and writes. */
        NEED(!zds_set_values(e, rank ? NULL : small_values, NULL), "%s", zds_engine_error(e));
        NEED(!small_micro(e, ZDS_BOUNDARY_AUTO, 0, NULL), "%s", zds_engine_error(e));
        NEED(zds_get_values(e, (uint32_t)rank, NULL, ignore, NULL) == ZDS_ERR_DIVERGED &&
                 strstr(zds_engine_error(e), "asks for parameter"),
             "%s", zds_engine_error(e));
        NEED(zds_get_values(e, 0, rank ? "exp_avg" : "exp_avg_sq", ignore, NULL) ==
                     ZDS_ERR_DIVERGED &&
                 strstr(zds_engine_error(e), "exp_avg"),
             "%s", zds_engine_error(e));
        NEED(zds_set_state(e, (uint32_t)rank, NULL, rank ? NULL : small_values, NULL) ==
                 ZDS_ERR_DIVERGED,
             "%s", zds_engine_error(e));
        /* Nothing has happened. */
        NEED(!zds_get_values(e, 0, "exp_avg", rank ? NULL : ignore, NULL), "%s",
             zds_engine_error(e));
        NEED(!zds_set_state(e, 0, NULL, rank ? NULL : small_values, NULL), "%s",
             zds_engine_error(e));
        zds_status status = zds_get_values(e, 0, NULL, fail_writing, e);
        NEED(status == (rank ? ZDS_ERR_PEER : ZDS_ERR_IO) &&
                 strstr(zds_engine_error(e), "the disk is full"),
             "%s: %s", zds_status_name(status), zds_engine_error(e));
        zds_engine_destroy(e);
        e = open_engine(at_stage(stage, ""), size, false);
        status = zds_set_values(e, fail_reading, e);
        NEED(status == (rank ? ZDS_ERR_PEER : ZDS_ERR_FORMAT) &&
                 strstr(zds_engine_error(e), "the file is torn"),
             "%s: %s", zds_status_name(status), zds_engine_error(e));
        zds_engine_destroy(e);
    }
}

Test(engine_values, ranks_with_other_wishes_and_programs_that_end_within)
{
    run(2, true, other_wishes);
    run(3, true, other_wishes);
}
