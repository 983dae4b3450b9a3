/* What goes through cells, some of the ranks: a second copy of parameters, with the bits of a run
 * without, and reductions in two levels, with those of the formula; and the bytes that the formula
 * says, as a communication plugin counts them. */
#include "small_engine.h"

#include "../plugins/count.h"

#define LIVE    ", \"stage3_max_live_parameters\": 1, \"stage3_prefetch_bucket_size\": 0"
#define ROOM    ", \"stage3_max_live_parameters\": 7000"
#define CELL    ", \"zero_hpz_partition_size\": 2"
#define GRADS   ", \"zero_quantized_gradients\": true"
#define WEIGHTS ", \"zero_quantized_weights\": true"

static const zds_plugin *const linked[] = {&counting_plugin, NULL};

static zds_engine_options options_of(const char *comm)
{
    return (zds_engine_options){.struct_size = sizeof(zds_engine_options),
                                .threads = 1,
                                .optimizer = "AdamW",
                                .comm = comm,
                                .plugins = linked,
                                .trust_config_plugins = true};
}

static const char *config_of(const char *zero, const char *more)
{
    static char json[1000];
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, "
             "\"zero_optimization\": {\"stage\": 3%s}%s}",
             zero, more);
    return json;
}

static void count_shm(void)
{
    setenv("ZDS_TEST_COUNT", TEST_BINARY_DIR "/lib/zds/plugins/comm_shm.so", 1);
}

static zds_status try_open(const char *json, int size, const char *comm, zds_engine **e,
                           zds_error *error)
{
    count_shm();
    return small_try_open(json, size, options_of(comm), e, error);
}

static zds_engine *open_engine(const char *zero, int size, const char *more)
{
    count_shm();
    return small_open(config_of(zero, more), size, options_of("count"));
}

/* What the rank's caller reads. */
static uint64_t seen;

static void look(zds_engine *e, uint32_t module, int32_t pass, zds_view *view)
{
    WORKS(zds_acquire(e, module, pass, NULL, view));
    for (size_t s = 0; s < view->count; s++) {
        const size_t bytes_of = zds_dtype_size(view->slots[s].dtype) * view->slots[s].count;
        for (size_t i = 0; i < bytes_of; i++)
            seen = (seen ^ ((const unsigned char *)view->slots[s].data)[i]) * 0x100000001b3ULL;
    }
}

/* A micro step, with an evaluation before. */
static void micro(zds_engine *e, uint64_t number)
{
    zds_view view;
    const uint64_t seed = 100 + number * 64 + (uint64_t)zds_rank(e) * 16;
    for (uint32_t m = 0; number % 2 && m < SMALL_MODULES; m++) {
        look(e, m, ZDS_FORWARD, &view);
        WORKS(zds_release(e, m, NULL));
    }
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    for (uint32_t m = 0; m < SMALL_MODULES; m++) {
        look(e, m, ZDS_FORWARD, &view);
        WORKS(zds_release(e, m, NULL));
    }
    for (uint32_t m = SMALL_MODULES; m-- > 0;) {
        look(e, m, ZDS_BACKWARD, &view);
        for (size_t s = 0; s < view.count; s++)
            if (view.slots[s].grad)
                WORKS(small_gradient(e, &view.slots[s], seed, (float)zds_loss_scale(e)));
        WORKS(zds_grad_ready(e, m, NULL));
    }
    WORKS(zds_step(e, NULL));
}

/* Another value for all of a parameter. */
static zds_status halves(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param, (void)first;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 0.5f;
    return ZDS_OK;
}

/* Of four micro steps; the bytes and calls of all_gather in the last. Then values are set. */
static uint64_t train(const char *zero, const char *more, int size, uint64_t *gathered,
                      uint64_t *gatherings)
{
    small_sum sum;
    zds_engine *e = open_engine(zero, size, more);
    seen = 0;
    for (uint64_t i = 0; i < 4; i++) {
        *gathered = bytes[ALL_GATHER];
        *gatherings = calls[ALL_GATHER];
        micro(e, i);
    }
    *gathered = bytes[ALL_GATHER] - *gathered;
    *gatherings = calls[ALL_GATHER] - *gatherings;
    for (int set = 0; set < 2; set++) {
        zds_view view;
        if (set)
            WORKS(zds_set_state(e, 0, NULL, halves, NULL));
        for (uint32_t m = 0; m < SMALL_MODULES; m++) {
            look(e, m, ZDS_FORWARD, &view);
            WORKS(zds_release(e, m, NULL));
        }
    }
    WORKS(small_hash(e, &sum));
    small_end(e);
    return sum.hash;
}

/* Trained elements of the small model's spans in parts: the table, the two blocks, the last vector,
 * each parameter padded to 16 and each span to 16 for each rank of four. */
enum { TABLE = 3456, UP = 3584, SQUARE = 576, LAST = 64, TRAINED = TABLE + UP + SQUARE + LAST };
enum { FROZEN = 64 };

static void cells(int rank, int size)
{
    static const char *const kinds[] = {LIVE, LIVE WEIGHTS, ROOM WEIGHTS, ""};
    static const char *const precisions[] = {"", ", \"gradient_accumulation_steps\": 2",
                                             ", \"bf16\": {\"enabled\": true}"};
    for (int p = 0; p < 3; p++)
        for (int k = 0; k < 4; k++) {
            char zero[300];
            uint64_t without = 0, with = 0, times = 0, again = 0;
            uint64_t hash = train(kinds[k], precisions[p], size, &without, &times), all = seen;
            snprintf(zero, sizeof zero, CELL "%s", kinds[k]);
            NEED(train(zero, precisions[p], size, &with, &again) == hash || rank, "other masters");
            NEED(seen == all && times == again, "other parameters are read");
            if (p || k)
                continue;
            /* Of `elements` that are gathered in a step each trained one comes from all ranks once,
             * a fourth from each; the others come from two ranks. 56 bytes are the engine's. */
            const uint64_t elements = (without - 56) / 4 * 4;
            NEED(elements > TRAINED, "nothing is gathered twice");
            NEED(with - 56 == 4 * (TRAINED / 4 + (elements - TRAINED) / 2),
                 "%llu bytes, without %llu", (unsigned long long)with, (unsigned long long)without);
        }
}

Test(engine_cells, cells_have_what_is_gathered_again, .timeout = 60)
{
    run(4, true, cells);
}

/* === memory === */

static uint64_t found;

static void keep_row(void *user, const zds_memory_row *row)
{
    (void)user;
    found += strcmp(row->purpose, "secondary parameters") ? 0 : row->bytes;
}

static void memory(int rank, int size)
{
    const uint64_t want = 4 * (TRAINED + FROZEN) / 2;
    zds_memory_row row;
    zds_model *model = NULL;
    zds_error error = ZDS_ERROR_INIT;
    const zds_engine_options o = options_of("count");
    zds_engine *e = open_engine(CELL, size, "");
    (void)rank;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        keep_row(NULL, &row);
    NEED(found == want, "%llu bytes", (unsigned long long)found);
    small_end(e);
    found = 0;
    NEED(!small_model(&model), "model");
    NEED(!zds_engine_plan(small_load(config_of(CELL, ""), size), model, &o, keep_row, NULL, &error),
         "%s", error.text);
    NEED(found == want, "%llu bytes are planned", (unsigned long long)found);
    zds_model_destroy(model);
}

Test(engine_cells, memory_is_as_planned)
{
    run(4, true, memory);
}

/* === what is refused, and what changes nothing === */

static void refusals(int rank, int size)
{
    static const struct {
        const char *zero, *comm, *word;
        zds_status status;
    } tries[] = {
        {", \"zero_hpz_partition_size\": 3", "count", "write 1, or what does", ZDS_ERR_CONFIG},
        {CELL, TEST_BINARY_DIR "/tests/plugins/modest_comm.so:modest", "write 1",
         ZDS_ERR_UNSUPPORTED}};
    (void)rank;
    for (size_t i = 0; i < 2; i++) {
        zds_error error = ZDS_ERROR_INIT;
        zds_engine *e = NULL;
        zds_status status = try_open(config_of(tries[i].zero, ""), size, tries[i].comm, &e, &error);
        NEED(status == tries[i].status && strstr(error.text, tries[i].word) &&
                 strstr(error.text, "zero_hpz_partition_size"),
             "%s: %s", zds_status_name(status), error.text);
        zds_error_clear(&error);
    }
    static const char *const alike[] = {"shm", "count"};
    for (size_t i = 0; i < 2; i++) {
        zds_error error = ZDS_ERROR_INIT;
        zds_engine *e = NULL;
        found = 0;
        NEED(!try_open(config_of(i ? ", \"zero_hpz_partition_size\": 4" : CELL, ""), size, alike[i],
                       &e, &error),
             "%s", error.text);
        zds_memory_row row;
        for (size_t k = 0; zds_memory_report(e, k, &row); k++)
            keep_row(NULL, &row);
        NEED(!found, "%llu bytes", (unsigned long long)found);
        small_end(e);
    }
}

Test(engine_cells, what_cannot_be_is_refused)
{
    run(4, true, refusals);
}

/* === two levels === */

enum { NODE = 2 };

/* Nodes of two ranks. */
static void on_nodes(int rank)
{
    set_number("LOCAL_RANK", rank % NODE);
    set_number("LOCAL_WORLD_SIZE", NODE);
}

enum { SQUARE_PARAM = 4 /* h.1.weight, which has a span of its own */ };

/* What comes out of 4 bits: blocks of 128 from the first element of each part. */
static void through_4(float *x, uint64_t part)
{
    for (uint64_t first = 0; first < SQUARE; first += part)
        for (uint64_t block = first; block < first + part; block += 128) {
            const uint64_t stop = block + 128 < first + part ? block + 128 : first + part;
            float most = 0;
            for (uint64_t i = block; i < stop; i++)
                most = fmaxf(most, fabsf(x[i]));
            for (uint64_t i = block; i < stop; i++)
                x[i] = copysignf(floorf(fabsf(x[i]) * (7 / most) + 0.5f), x[i]) * (most / 7);
        }
}

static float want[SQUARE];

/* The mean over ranks of a micro step's gradient. */
static void step_wanted(uint64_t number, int size)
{
    const uint64_t part = SQUARE / (uint64_t)size;
    float sum[SQUARE] = {0};
    for (int m = 0; m < size / NODE; m++) {
        float node[SQUARE] = {0};
        for (int l = 0; l < NODE; l++) {
            const uint64_t seed = 100 + number * 64 + (uint64_t)(m * NODE + l) * 16;
            float own[SQUARE];
            for (uint64_t i = 0; i < SQUARE; i++)
                own[i] = small_number(seed + SQUARE_PARAM, i);
            through_4(own, part);
            for (uint64_t i = 0; i < SQUARE; i++)
                node[i] += own[i];
        }
        through_4(node, part);
        for (uint64_t i = 0; i < SQUARE; i++)
            sum[i] += node[i];
    }
    for (uint64_t i = 0; i < SQUARE; i++)
        want[i] -= 0.5f * sum[i] / (float)size;
}

static void levels(int rank, int size)
{
    static const char *const overlaps[] = {"", ", \"overlap_comm\": false"};
    static const uint64_t spans[] = {TABLE, UP, SQUARE, LAST};
    on_nodes(rank);
    for (int k = 0; k < 2; k++) {
        char zero[200];
        uint64_t before[2] = {0, 0}, message = 0;
        snprintf(zero, sizeof zero, GRADS "%s", overlaps[k]);
        zds_engine *e = open_engine(
            zero, size, ", \"optimizer\": {\"type\": \"SGD\", \"params\": {\"lr\": 0.5}}");
        for (uint64_t i = 0; i < SQUARE; i++)
            want[i] = small_number(SQUARE_PARAM, i);
        for (uint64_t number = 0; number < 3; number++) {
            before[0] = bytes[ALL_TO_ALL];
            before[1] = calls[ALL_TO_ALL];
            micro(e, number);
            step_wanted(number, size);
            WORKS(zds_get_values(e, SQUARE_PARAM, NULL, small_is_near, want));
        }
        /* To the other rank of the node what both nodes' owners get, then to the other node. */
        for (size_t i = 0; i < 4; i++) {
            const uint64_t part = spans[i] / (uint64_t)size;
            message += part / 2 + 4 * ((part + 127) / 128);
        }
        NEED(calls[ALL_TO_ALL] - before[1] == 8 && bytes[ALL_TO_ALL] - before[0] == 3 * message,
             "%llu bytes, not %llu", (unsigned long long)(bytes[ALL_TO_ALL] - before[0]),
             (unsigned long long)(3 * message));
        small_end(e);
    }
}

Test(engine_cells, gradients_go_within_nodes_first, .timeout = 60)
{
    run(4, true, levels);
}

/* Nodes that have another number of ranks each, or none of several: one level, on all. */
static void one_level(int rank, int size)
{
    set_number("LOCAL_RANK", rank == 2 ? 0 : rank);
    set_number("LOCAL_WORLD_SIZE", rank == 2 ? 1 : 2);
    const uint64_t before = calls[ALL_TO_ALL];
    zds_engine *e = open_engine(GRADS, size, "");
    micro(e, 0);
    NEED(calls[ALL_TO_ALL] - before == 4, "%llu all_to_all",
         (unsigned long long)(calls[ALL_TO_ALL] - before));
    small_end(e);
}

Test(engine_cells, unequal_nodes_are_one_level)
{
    run(3, true, one_level);
}

/* === failures === */

static void dies(int rank, int size)
{
    zds_view view;
    on_nodes(rank);
    zds_engine *e = open_engine(LIVE CELL GRADS, size, "");
    micro(e, 0);
    if (rank == 3) {
        WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
        for (uint32_t m = 0; m < SMALL_MODULES; m++) {
            WORKS(zds_acquire(e, m, ZDS_FORWARD, NULL, &view));
            WORKS(zds_release(e, m, NULL));
        }
        _exit(0);
    }
    zds_status status = small_micro(e, ZDS_BOUNDARY_AUTO, 1, NULL);
    NEED(status == ZDS_ERR_PEER && strstr(zds_engine_error(e), "rank 3"), "%s",
         zds_engine_error(e));
    zds_engine_destroy(e);
}

Test(engine_cells, a_rank_that_dies_is_an_error_in_every_cell)
{
    run(4, true, dies);
}
