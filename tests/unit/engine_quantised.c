/* What travels as integers of few bits between ranks that share no pages: every rank computes with
 * the same bits, near the exact ones; masters stay exact; gradients are added as the formula says,
 * and losses stay near those of exact runs; memory as planned. */
#include "small_engine.h"

#define KEEP    ", \"stage3_param_persistence_threshold\": 100000"
#define LIVE    ", \"stage3_max_live_parameters\": 1"
#define WEIGHTS ", \"zero_quantized_weights\": true"
#define GRADS   ", \"zero_quantized_gradients\": true"
#define FROZEN  ", \"zero_quantized_nontrainable_weights\": true"

static const char *backend; /* NULL: the one that is chosen */

static const char *config_of(int stage, const char *zero, const char *more)
{
    static char json[1000];
    char comm[200] = "";
    if (backend)
        snprintf(comm, sizeof comm, ", \"zds\": {\"comm\": \"%s\"}", backend);
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, "
             "\"zero_optimization\": {\"stage\": %d%s}%s%s}",
             stage, zero, more, comm);
    return json;
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
    return small_open(config_of(stage, zero, more), size, options_of(optimizer));
}

static void on_all(const int *sizes, size_t count, void (*body)(int rank, int size))
{
    backend = on_island() ? NULL : TEST_BINARY_DIR "/tests/plugins/modest_comm.so:modest";
    for (size_t i = on_island() ? count - 1 : 0; i < count; i++)
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
        small_end(e);
        small_end(two);
    }
}

Test(engine_quantised, ranks_read_the_same_and_masters_stay_exact, .timeout = 300)
{
    on_all((int[]){2, 3}, 2, reads);
}

/* === gradients === */

#define DESCENT ", \"optimizer\": {\"type\": \"SGD\", \"params\": {\"lr\": 0.5}}"

static uint64_t seed_of(uint64_t micro, int rank)
{
    return 100 + micro * 64 + (uint64_t)rank * 16; /* of small_passes */
}

enum { SQUARE = 4, SQUARE_SIZE = 24 * 24 /* h.1.weight, which has a span of its own */ };

static float in_type(float x, bool bf16)
{
    return bf16 ? float_from_bf16(bf16_from_float(x)) : x;
}

/* What a rank has for element i of micro steps from `first` up to `end`, as backward adds them. */
static float left(uint64_t first, uint64_t end, float scale, int rank, bool bf16, uint64_t i)
{
    float sum = 0;
    for (uint64_t micro = first; micro < end; micro++)
        sum += in_type(scale * small_number(seed_of(micro, rank) + SQUARE, i), bf16);
    return sum;
}

/* The sum over ranks of what comes out of 4 bits: blocks count from the first element of a part. */
static float out_of_4(uint64_t first, uint64_t end, float scale, int size, bool bf16, uint64_t i)
{
    const uint64_t part = SQUARE_SIZE / (uint64_t)size, begin = i / part * part;
    const uint64_t block = begin + (i - begin) / 128 * 128;
    float sum = 0;
    for (int r = 0; r < size; r++) {
        float most = 0, x = left(first, end, scale, r, bf16, i);
        for (uint64_t k = block; k < block + 128 && k < begin + part; k++)
            most = fmaxf(most, fabsf(left(first, end, scale, r, bf16, k)));
        sum += copysignf(floorf(fabsf(x) * (7 / most) + 0.5f), x) * (most / 7);
    }
    return sum;
}

static float want[SQUARE_SIZE];

/* Each micro step is reduced where ranks keep gradients in parts, else their sum is. */
static void descends(int size, uint64_t gas, bool bf16)
{
    char more[200];
    bool in_parts = false;
    zds_memory_row row;
    snprintf(more, sizeof more,
             DESCENT ", \"gradient_accumulation_steps\": %d, \"bf16\": {\"enabled\": %s}", (int)gas,
             bf16 ? "true" : "false");
    zds_engine *e = open_engine(3, GRADS, more, size, NULL);
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        in_parts |= !strcmp(row.purpose, "reduce buffers");
    NEED(in_parts == bf16, "the model is of another size than it was");
    const uint64_t every = in_parts ? 1 : gas;
    for (uint64_t i = 0; i < SQUARE_SIZE; i++)
        want[i] = in_type(small_number(SQUARE, i), bf16);
    for (uint64_t micro = 0; micro < 3 * gas; micro++) {
        WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, micro, NULL));
        if ((micro + 1) % every == 0)
            for (uint64_t i = 0; i < SQUARE_SIZE; i++)
                want[i] -=
                    0.5f / (float)size *
                    out_of_4(micro + 1 - every, micro + 1, (float)(1 / (double)gas), size, bf16, i);
        if ((micro + 1) % gas == 0)
            WORKS(zds_get_values(e, SQUARE, NULL, small_is_near, want));
    }
    small_end(e);
}

static void gradients(int rank, int size)
{
    (void)rank;
    descends(size, 1, false);
    descends(size, 3, false);
    descends(size, 3, true);
}

Test(engine_quantised, gradients_are_added_as_the_formula_says, .timeout = 60)
{
    on_all((int[]){2, 3}, 2, gradients);
}

/* The same bits again, however the wire is used; near a run without, in every precision. */
static void repeats(int rank, int size)
{
    static const char *const precisions[] = {
        "", ", \"bf16\": {\"enabled\": true}, \"gradient_accumulation_steps\": 2",
        ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 3}"};
    static const char *const zeros[] = {WEIGHTS GRADS, WEIGHTS GRADS LIVE,
                                        WEIGHTS GRADS ", \"overlap_comm\": false"};
    for (size_t p = 0; p < 3; p++) {
        uint64_t hash = 0;
        for (size_t z = 0; z < 3; z++) {
            small_sum sum;
            zds_step_result r = {.struct_size = sizeof r}, exact = {.struct_size = sizeof exact};
            zds_engine *e = open_engine(3, zeros[z], precisions[p], size, "AdamW");
            zds_engine *other = open_engine(3, "", precisions[p], size, "AdamW");
            for (uint64_t i = 0; i < 6; i++) {
                WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, i, &r));
                NEED(!small_micro(other, ZDS_BOUNDARY_AUTO, i, &exact), "%s",
                     zds_engine_error(other));
                if (r.applied)
                    NEED(fabs(r.grad_norm / exact.grad_norm - 1) < 0.02 &&
                             r.grad_norm != exact.grad_norm,
                         "norm %g, without integers %g", r.grad_norm, exact.grad_norm);
            }
            WORKS(small_hash(e, &sum));
            NEED(rank || (sum.finite && (!z || sum.hash == hash)), "%s: other bits", zeros[z]);
            hash = sum.hash;
            small_end(e);
            small_end(other);
        }
    }
}

Test(engine_quantised, the_same_bits_however_the_wire_is_used, .timeout = 120)
{
    on_all((int[]){2, 3}, 2, repeats);
}

/* One rank's gradient is not finite: all skip the step, and nothing has changed. */
static void not_finite(int rank, int size)
{
    static const float none[] = {NAN, INFINITY};
    static const char *const precisions[] = {
        "", ", \"bf16\": {\"enabled\": true}",
        ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 3}"};
    for (size_t k = 0; k < 2; k++)
        for (size_t p = 0; p < 3; p++) {
            small_sum before, after;
            zds_view view;
            zds_step_result r = {.struct_size = sizeof r};
            zds_engine *e = open_engine(3, WEIGHTS GRADS, precisions[p], size, "AdamW");
            WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, 0, NULL));
            WORKS(small_hash(e, &before));
            WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
            for (uint32_t m = SMALL_MODULES; m-- > 0;) {
                WORKS(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view));
                for (size_t s = 0; s < view.count; s++)
                    if (view.slots[s].grad)
                        WORKS(small_gradient(e, &view.slots[s], 1, 1));
                if (rank == 1 && m == 1) {
                    const zds_slot *slot = &view.slots[0];
                    const uint16_t half = slot->dtype == ZDS_BF16 ? bf16_from_float(none[k])
                                                                  : f16_from_float(none[k]);
                    const size_t bytes = zds_dtype_size(slot->dtype);
                    WORKS(zds_copy_in(e, (char *)slot->grad + 7 * bytes,
                                      bytes == 4 ? (const void *)&none[k] : &half, bytes));
                }
                WORKS(zds_grad_ready(e, m, NULL));
            }
            WORKS(zds_step(e, &r));
            NEED(r.skipped && !r.applied, "%s", precisions[p]);
            WORKS(small_hash(e, &after));
            NEED(rank || before.hash == after.hash, "%s", precisions[p]);
            WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, 1, &r));
            NEED(r.applied, "%s", precisions[p]);
            small_end(e);
        }
}

Test(engine_quantised, what_is_not_finite_is_seen, .timeout = 60)
{
    on_all((int[]){2, 3}, 2, not_finite);
}

/* === losses === */

/* Half the mean square from what this rank would have them be. */
static float target(uint32_t param, int rank, uint64_t i)
{
    return small_number(1000 + param, i) +
           0.3f * small_number(2000 + param + 16 * (uint64_t)rank, i);
}

static double pull(zds_engine *e, const zds_slot *slot, double *elements)
{
    static float w[SOME];
    static uint16_t half[SOME];
    const double uses = slot->param ? 1 : 2;
    double loss = 0;
    read_slot(e, slot, w);
    for (uint64_t i = 0; i < slot->count; i++) {
        const float off = w[i] - target(slot->param, zds_rank(e), i);
        loss += 0.5 * (double)off * (double)off / uses;
        w[i] = off / (float)uses;
    }
    const size_t size = zds_dtype_size(slot->grad_dtype);
    if (slot->accumulate && size == 4) {
        static float before[SOME];
        WORKS(zds_copy_out(e, before, slot->grad, slot->count * size));
        for (uint64_t i = 0; i < slot->count; i++)
            w[i] += before[i];
    } else if (slot->accumulate) {
        WORKS(zds_copy_out(e, half, slot->grad, slot->count * size));
        for (uint64_t i = 0; i < slot->count; i++)
            w[i] += float_from_bf16(half[i]);
    }
    for (uint64_t i = 0; i < slot->count; i++)
        half[i] = bf16_from_float(w[i]);
    WORKS(zds_copy_in(e, slot->grad, size == 4 ? (const void *)w : half, slot->count * size));
    *elements += (double)slot->count / uses;
    return loss;
}

/* All ranks' mean. */
static double train_once(zds_engine *e)
{
    zds_view view;
    double sums[2] = {0, 0};
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    for (uint32_t m = SMALL_MODULES; m-- > 0;) {
        WORKS(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view));
        for (size_t s = 0; s < view.count; s++)
            if (view.slots[s].grad)
                sums[0] += pull(e, &view.slots[s], &sums[1]);
        WORKS(zds_grad_ready(e, m, NULL));
    }
    WORKS(zds_step(e, NULL));
    WORKS(zds_sum_over_ranks(e, sums, 2));
    return sums[0] / sums[1];
}

static void losses(int rank, int size)
{
    static const char *const zeros[] = {WEIGHTS, GRADS, WEIGHTS GRADS FROZEN};
    static const char *const precisions[] = {"", ", \"bf16\": {\"enabled\": true}"};
    (void)rank;
    for (size_t k = 0; k < 6; k++) {
        char more[200];
        snprintf(more, sizeof more,
                 "%s, \"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.02}}",
                 precisions[k / 3]);
        zds_engine *e = open_engine(3, zeros[k % 3], more, size, NULL);
        zds_engine *exact = open_engine(3, "", more, size, NULL);
        double first = 0, loss = 0, wanted = 0;
        for (int i = 0; i < 20; i++) {
            loss = train_once(e);
            wanted = train_once(exact);
            first = i ? first : wanted;
            NEED(fabs(loss / wanted - 1) < 1e-2, "%s%s step %d: loss %g, exact %g", zeros[k % 3],
                 precisions[k / 3], i, loss, wanted);
        }
        NEED(wanted < first / 2 && loss != wanted, "it does not train: %g to %g", first, wanted);
        small_end(e);
        small_end(exact);
    }
}

Test(engine_quantised, losses_stay_near, .timeout = 120)
{
    on_all((int[]){2, 3}, 2, losses);
}

/* === what stays exact === */

/* What every rank keeps does not travel so, nor does anything of one rank or of shared pages. */
static void exact(int rank, int size)
{
    const char *zero = size > 1 && (backend || on_island()) ? WEIGHTS GRADS KEEP : WEIGHTS GRADS;
    zds_engine *e = open_engine(3, zero, "", size, "AdamW");
    zds_engine *two = open_engine(2, "", "", size, "AdamW");
    reading r = {0};
    (void)rank;
    for (uint64_t i = 0; i < 3; i++)
        micro(e, two, i, &r);
    zds_memory_row row;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        NEED(!strstr(row.purpose, "quantised"), "%s", row.purpose);
    small_end(e);
    small_end(two);
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
    NEED(!zds_engine_plan(small_load(config_of(3, zero, ""), size), model, &o, keep_row,
                          (void *)(uintptr_t)purpose, &error),
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
    small_end(e);
    NEED(planned(WEIGHTS, size, "quantised parameters") == 2 * gathered, "%llu bytes are planned",
         (unsigned long long)found);
}

Test(engine_quantised, memory_is_as_planned)
{
    on_all((int[]){2, 3}, 2, memory);
}

/* === failures === */

/* Rank 1 ends before it gathers, or before it reduces. */
static void dies(int rank, int size, bool in_backward)
{
    zds_engine *e = open_engine(3, WEIGHTS GRADS LIVE, "", size, "AdamW");
    zds_view view;
    zds_status status;
    WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, 0, NULL));
    if (rank == 1 && in_backward) {
        WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
        for (uint32_t m = 0; m < SMALL_MODULES; m++) {
            WORKS(zds_acquire(e, m, ZDS_FORWARD, NULL, &view));
            WORKS(zds_release(e, m, NULL));
        }
        WORKS(zds_acquire(e, SMALL_MODULES - 1, ZDS_BACKWARD, NULL, &view));
    }
    if (rank == 1)
        _exit(0);
    status = small_micro(e, ZDS_BOUNDARY_AUTO, 1, NULL);
    NEED(status == ZDS_ERR_PEER, "%s", zds_status_name(status));
    NEED(strstr(zds_engine_error(e), "s of module"), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

static void dies_in_forward(int rank, int size)
{
    dies(rank, size, false);
}

static void dies_in_backward(int rank, int size)
{
    dies(rank, size, true);
}

Test(engine_quantised, a_rank_that_dies_is_an_error_of_the_others)
{
    on_all((int[]){2, 3}, 2, dies_in_forward);
    on_all((int[]){2, 3}, 2, dies_in_backward);
}
