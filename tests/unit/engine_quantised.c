/* What travels as integers of few bits between ranks that share no pages: every rank computes with
 * the same bits, near the exact ones; masters and owners' parts stay exact; memory as the formula
 * says. */
#include "engine_world.h"
#include "small_model.h"

#define WORKS(call) NEED(!(call), "%s: %s", #call, zds_engine_error(e))
#define KEEP        ", \"stage3_param_persistence_threshold\": 100000"
#define LIVE        ", \"stage3_max_live_parameters\": 1"
#define WEIGHTS     ", \"zero_quantized_weights\": true"
#define FROZEN      ", \"zero_quantized_nontrainable_weights\": true"

static const char *backend; /* NULL: the one that is chosen */

static zds_config *load(int stage, const char *zero, const char *more, int size)
{
    static char json[1000];
    char comm[200] = "";
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL; /* stays as long as the process */
    const zds_config_context context = {.struct_size = sizeof context, .world_size = size};
    if (backend)
        snprintf(comm, sizeof comm, ", \"zds\": {\"comm\": \"%s\"}", backend);
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, "
             "\"zero_optimization\": {\"stage\": %d%s}%s%s}",
             stage, zero, more, comm);
    NEED(!zds_config_load(where_config(json), &context, &config, &error), "%s", error.text);
    return config;
}

static zds_engine_options options_of(const char *optimizer)
{
    return (zds_engine_options){.struct_size = sizeof(zds_engine_options),
                                .threads = 2,
                                .optimizer = optimizer,
                                .trust_config_plugins = true};
}

static zds_engine *open_engine(int stage, const char *zero, const char *more, int size,
                               const char *optimizer)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_model *model = NULL;
    zds_engine *e = NULL;
    const zds_engine_options o = options_of(optimizer);
    zds_config *config = load(stage, zero, more, size);
    NEED(!small_model(&model), "model");
    NEED(!zds_engine_create(config, model, &o, &e, &error), "%s: %s", zero, error.text);
    zds_model_destroy(model);
    WORKS(zds_set_values(e, small_values, NULL));
    return e;
}

static void end(zds_engine *e)
{
    WORKS(zds_barrier(e));
    zds_engine_destroy(e);
}

static void on_all(const int *sizes, size_t count, void (*body)(int rank, int size))
{
    backend = on_island() ? NULL : TEST_BINARY_DIR "/tests/plugins/modest_comm.so:modest";
    for (size_t i = 0; i < count; i++)
        run(sizes[i], true, body);
}

/* === what callers read === */

enum { SOME = 6 * 160 * 160 };

static void read_slot(zds_engine *e, const zds_slot *slot, float *out)
{
    static char bytes[SOME * sizeof(float)];
    NEED(slot->count <= SOME, "a parameter of the test is too large");
    WORKS(zds_copy_out(e, bytes, slot->data, slot->count * zds_dtype_size(slot->dtype)));
    for (uint64_t i = 0; i < slot->count; i++) {
        uint16_t half = 0;
        if (slot->dtype == ZDS_F32)
            memcpy(&out[i], bytes + 4 * i, 4);
        else
            memcpy(&half, bytes + 2 * i, 2);
        if (slot->dtype != ZDS_F32)
            out[i] = slot->dtype == ZDS_BF16 ? float_from_bf16(half) : float_from_f16(half);
    }
}

/* What was read so far, of parameters that are to be near the exact ones or the same. */
typedef struct reading {
    uint64_t hash, near, other;
    bool trained, frozen; /* travel as integers */
} reading;

/* Half of a step of the integers, and what rounding to the slot's type adds. */
static void compare(reading *r, const zds_view *view, const zds_view *theirs, zds_engine *e,
                    zds_engine *other)
{
    static float seen[SOME], exact[SOME], most;
    most = 0.51f; /* of other modules, with which a small one may share a span */
    for (size_t s = 0; s < view->count; s++) {
        read_slot(other, &theirs->slots[s], exact);
        for (uint64_t i = 0; i < view->slots[s].count; i++)
            most = fmaxf(most, fabsf(exact[i]));
    }
    for (size_t s = 0; s < view->count; s++) {
        const zds_slot *slot = &view->slots[s];
        const bool as_integers = slot->param == SMALL_FROZEN ? r->frozen : r->trained;
        const float rounding = slot->dtype == ZDS_F32 ? 1e-6f : 0x1p-8f;
        read_slot(e, slot, seen);
        read_slot(other, &theirs->slots[s], exact);
        for (uint64_t i = 0; i < slot->count; i++) {
            uint32_t bits;
            memcpy(&bits, &seen[i], sizeof bits);
            r->hash = (r->hash ^ bits) * 0x100000001b3ULL;
            const float far = fabsf(seen[i] - exact[i]);
            NEED(far <= (as_integers ? most / 254 + rounding * most : 0), "parameter %u: %g for %g",
                 slot->param, (double)seen[i], (double)exact[i]);
            r->near += as_integers && far > 0;
            r->other += as_integers && far == 0;
        }
    }
}

static void visit(zds_engine *e, zds_engine *other, uint32_t module, reading *r)
{
    zds_view view, theirs;
    WORKS(zds_acquire(e, module, ZDS_FORWARD, NULL, &view));
    NEED(!zds_acquire(other, module, ZDS_FORWARD, NULL, &theirs), "%s", zds_engine_error(other));
    compare(r, &view, &theirs, e, other);
    WORKS(zds_release(e, module, NULL));
    NEED(!zds_release(other, module, NULL), "%s", zds_engine_error(other));
}

static void micro(zds_engine *e, zds_engine *other, uint64_t number, reading *r)
{
    zds_view view, theirs;
    for (uint32_t m = SMALL_MODULES; number % 3 == 1 && m-- > 0;) /* an evaluation */
        visit(e, other, m, r);
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    NEED(!zds_micro_begin(other, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(other));
    for (uint32_t m = 0; m < SMALL_MODULES; m++)
        if (number % 4 != 2 || m != 1) /* another order */
            visit(e, other, m, r);
    const uint64_t seed = 100 + number * 64 + (uint64_t)zds_rank(e) * 16;
    for (uint32_t m = SMALL_MODULES; m-- > 0;) {
        WORKS(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view));
        NEED(!zds_acquire(other, m, ZDS_BACKWARD, NULL, &theirs), "%s", zds_engine_error(other));
        compare(r, &view, &theirs, e, other);
        for (size_t s = 0; s < view.count; s++)
            if (view.slots[s].grad) {
                WORKS(small_gradient(e, &view.slots[s], seed, (float)zds_loss_scale(e)));
                NEED(!small_gradient(other, &theirs.slots[s], seed, (float)zds_loss_scale(other)),
                     "%s", zds_engine_error(other));
            }
        WORKS(zds_grad_ready(e, m, NULL));
        NEED(!zds_grad_ready(other, m, NULL), "%s", zds_engine_error(other));
    }
    WORKS(zds_step(e, NULL));
    NEED(!zds_step(other, NULL), "%s", zds_engine_error(other));
}

/* All ranks have the same. */
static void agree(zds_engine *e, uint64_t hash, int size)
{
    double halves[2] = {(double)(hash >> 32), (double)(hash & 0xffffffffu)};
    double sums[2] = {halves[0], halves[1]};
    WORKS(zds_sum_over_ranks(e, sums, 2));
    NEED(sums[0] == size * halves[0] && sums[1] == size * halves[1], "ranks have other bits");
}

static const struct {
    const char *zero, *more, *optimizer;
    bool trained, frozen;
    int64_t width;
} cases[] = {
    {WEIGHTS, "", "AdamW", true, true, 24},
    {WEIGHTS LIVE, ", \"bf16\": {\"enabled\": true}", "AdamW", true, true, 37},
    {WEIGHTS FROZEN LIVE, ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 3}", "AdamW",
     true, true, 24},
    {FROZEN LIVE, "", "AdamW", false, true, 24},
    {WEIGHTS ", \"stage3_prefetch_bucket_size\": 0", "", "Muon", true, true, 24},
    {WEIGHTS LIVE, "", "AdamW", true, true, 160}, /* more than one run of a thread */
    {WEIGHTS, "", "AdamW", true, true, 24},       /* parameters rest elsewhere */
};
enum { CASES = sizeof cases / sizeof *cases };
static const char in_files[] =
    WEIGHTS LIVE ", \"offload_param\": {\"device\": \"nvme\", "
                 "\"nvme_path\": \"" TEST_BINARY_DIR "\", \"max_in_cpu\": 0}",
                  on_host[] = WEIGHTS LIVE ", \"offload_param\": {\"device\": \"cpu\"}";

static void reads(int rank, int size)
{
    for (size_t c = 0; c < CASES; c++) {
        const char *zero = c < CASES - 1 ? cases[c].zero : on_island() ? on_host : in_files;
        small_width = cases[c].width;
        zds_engine *e = open_engine(3, zero, cases[c].more, size, cases[c].optimizer);
        zds_engine *two = open_engine(2, "", cases[c].more, size, cases[c].optimizer);
        reading r = {.trained = cases[c].trained, .frozen = cases[c].frozen};
        for (uint64_t i = 0; i < 5; i++)
            micro(e, two, i, &r);
        NEED(r.near > r.other, "case %zu: %llu elements of %llu travelled as integers", c,
             (unsigned long long)r.near, (unsigned long long)(r.near + r.other));
        agree(e, r.hash, size);
        small_sum mine, theirs;
        WORKS(small_hash(e, &mine));
        NEED(!small_hash(two, &theirs), "%s", zds_engine_error(two));
        NEED(rank || mine.hash == theirs.hash, "case %zu: masters or states are not exact", c);
        end(e);
        end(two);
    }
}

Test(engine_quantised, ranks_read_the_same_and_masters_stay_exact, .timeout = 300)
{
    on_all((int[]){2, 3}, 2, reads);
}

/* What every rank keeps does not travel so, nor does anything of one rank or of shared pages. */
static void exact(int rank, int size)
{
    const char *zero = size > 1 && (backend || on_island()) ? WEIGHTS KEEP : WEIGHTS;
    zds_engine *e = open_engine(3, zero, "", size, "AdamW");
    zds_engine *two = open_engine(2, "", "", size, "AdamW");
    reading r = {0};
    (void)rank;
    for (uint64_t i = 0; i < 3; i++)
        micro(e, two, i, &r);
    zds_memory_row row;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        NEED(!strstr(row.purpose, "quantised"), "%s", row.purpose);
    end(e);
    end(two);
}

Test(engine_quantised, what_does_not_travel_is_exact)
{
    on_all((int[]){1, 2}, 2, exact);
    backend = NULL;
    if (!on_island())
        run(2, true, exact);
}

/* === memory === */

static uint64_t found;

static void keep_row(void *user, const zds_memory_row *row)
{
    found += strcmp(row->purpose, user) ? 0 : row->bytes;
}

static uint64_t planned(const char *zero, int size, const char *purpose)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_model *model = NULL;
    const zds_engine_options o = options_of("AdamW");
    found = 0;
    NEED(!small_model(&model), "model");
    NEED(!zds_engine_plan(load(3, zero, "", size), model, &o, keep_row, (void *)(uintptr_t)purpose,
                          &error),
         "%s", error.text);
    zds_model_destroy(model);
    return found;
}

/* The largest span is module h.0: each rank's part, and a scale for each block. */
static void memory(int rank, int size)
{
    (void)rank;
    small_width = 96;
    const uint64_t n = (uint64_t)size, part = (6 * 96 * 96 + 3 * 96) / n;
    const uint64_t gathered = n * (part + 4 * ((part + 2047) / 2048));
    zds_engine *e = open_engine(3, WEIGHTS, "", size, "AdamW");
    zds_memory_row row;
    found = 0;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        keep_row((void *)(uintptr_t) "quantised parameters", &row);
    NEED(found == 2 * gathered, "%llu bytes, not %llu", (unsigned long long)found,
         (unsigned long long)(2 * gathered));
    end(e);
    NEED(planned(WEIGHTS, size, "quantised parameters") == 2 * gathered, "%llu bytes are planned",
         (unsigned long long)found);
}

Test(engine_quantised, memory_is_as_planned)
{
    on_all((int[]){2, 3}, 2, memory);
}

/* === failures === */

static void dies(int rank, int size)
{
    zds_engine *e = open_engine(3, WEIGHTS LIVE, "", size, "AdamW");
    zds_view view;
    WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, 0, NULL));
    if (rank == 1)
        _exit(0);
    zds_status status = ZDS_OK;
    for (uint32_t m = 0; !status && m < SMALL_MODULES; m++) {
        status = zds_acquire(e, m, ZDS_FORWARD, NULL, &view);
        if (!status)
            status = zds_release(e, m, NULL);
    }
    NEED(status == ZDS_ERR_PEER, "%s", zds_status_name(status));
    NEED(strstr(zds_engine_error(e), "parameters of module") || rank > 1, "%s",
         zds_engine_error(e));
    zds_engine_destroy(e);
}

Test(engine_quantised, a_rank_that_dies_is_an_error_of_the_others)
{
    on_all((int[]){2, 3}, 2, dies);
}
