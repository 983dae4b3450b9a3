/* A run that ends, and another that goes on where it stood, with another number of ranks: what the
 * first tells of itself is all that the second needs. */
#include <sys/mman.h>

#include "engine_world.h"
#include "plugin/registry.h"
#include "small_model.h"

enum { MOST = 100000, FIRST = 5, MORE = 6, OPTIMIZERS = 64, ROOM = 8 << 20 };

typedef struct state {
    zds_state_info info;
    char name[64];
    float values[MOST];
    unsigned char *bytes; /* in `room`; NULL: the values are what is kept */
} state;

/* In memory of all processes; the file that a program would write. */
typedef struct saved {
    float values[SMALL_PARAMS][MOST];
    state states[SMALL_PARAMS][ZDS_MAX_STATES];
    uint32_t state_count[SMALL_PARAMS];
    zds_progress progress;
    uint64_t sched_bytes;
    char sched[256];
    uint64_t hash;
    double rate;
    char names[OPTIMIZERS][64]; /* of all that there are */
    uint32_t name_count, left_out;
    uint64_t used;
    unsigned char room[ROOM];
} saved;

typedef struct run_of {
    const char *optimizer, *scheduler, *keys, *params;
} run_of;

static saved *file;
static const run_of *what;
static int stage;
static bool unlike;                /* ranks have gradients of their own */
static const char *zero_keys = ""; /* more of the section */
static bool by_values;             /* states go as values, where they have any, else all as bytes */

static void map_file(void)
{
    file = mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(file != MAP_FAILED);
}

static zds_engine *create(int size)
{
    char json[512];
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL; /* stays as long as the process */
    zds_model *model = NULL;
    zds_engine *e = NULL;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = size};
    const zds_engine_options o = {.struct_size = sizeof o,
                                  .threads = 1,
                                  .optimizer = what->optimizer,
                                  .optimizer_params = what->params,
                                  .scheduler = what->scheduler,
                                  .seed = 3};
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d%s}%s}",
             stage, zero_keys, what->keys);
    NEED(!zds_config_load(where_config(json), &context, &config, &error), "%s", error.text);
    NEED(!small_model(&model), "model");
    NEED(!zds_engine_create(config, model, &o, &e, &error), "%s: %s", json, error.text);
    zds_model_destroy(model);
    return e;
}

/* The same gradients on every rank, so that their mean is the same for 1, 2 and 4; or not. */
static void train(zds_engine *e, uint64_t first, uint64_t end)
{
    for (uint64_t i = first; i < end; i++) {
        zds_view view;
        zds_step_result r = {.struct_size = sizeof r};
        NEED(!zds_micro_begin(e, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(e));
        for (uint32_t m = SMALL_MODULES; m-- > 0;) {
            NEED(!zds_acquire(e, m, ZDS_BACKWARD, NULL, &view), "%s", zds_engine_error(e));
            for (size_t s = 0; s < view.count; s++)
                if (view.slots[s].grad)
                    NEED(!small_gradient(e, &view.slots[s],
                                         100 + 64 * i + (unlike ? 16 * (uint64_t)zds_rank(e) : 0),
                                         (float)zds_loss_scale(e) * (i == 4 ? 1e9f : 1)),
                         "gradient");
            NEED(!zds_grad_ready(e, m, NULL), "%s", zds_engine_error(e));
        }
        NEED(!zds_step(e, &r), "%s", zds_engine_error(e));
        if (zds_observes(e))
            NEED(!zds_observe(e, 1.0), "%s", zds_engine_error(e));
        file->rate = r.next_lr;
    }
}

static zds_status keep(void *user, uint32_t param, uint64_t first, uint64_t count,
                       const float *values)
{
    (void)param;
    memcpy((float *)user + first, values, count * sizeof *values);
    return ZDS_OK;
}

static zds_status give(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)param;
    memcpy(out, (float *)user + first, count * sizeof *out);
    return ZDS_OK;
}

static zds_status keep_bytes(void *user, uint64_t first, uint64_t count, const void *bytes)
{
    memcpy((char *)user + first, bytes, count);
    return ZDS_OK;
}

static zds_status give_bytes(void *user, uint64_t first, uint64_t count, void *out)
{
    memcpy(out, (char *)user + first, count);
    return ZDS_OK;
}

static zds_status give_value(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user;
    return give(file->values[param], param, first, count, out);
}

static void end_with(zds_engine *e, int rank)
{
    small_sum sum;
    NEED(!small_hash(e, &sum), "%s", zds_engine_error(e));
    if (!rank)
        file->hash = sum.hash;
    NEED(!zds_barrier(e), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

static void at_once(int rank, int size)
{
    zds_engine *e = create(size);
    NEED(!zds_set_values(e, small_values, NULL), "%s", zds_engine_error(e));
    train(e, 0, FIRST + MORE);
    end_with(e, rank);
}

static bool as_values(const zds_state_info *info)
{
    return by_values && (info->kind == ZDS_STATE_ELEMENT || info->kind == ZDS_STATE_CONSTANT);
}

static void save_state(zds_engine *e, uint32_t p, state *s, int rank)
{
    if (as_values(&s->info)) {
        NEED(!zds_get_values(e, p, s->info.name, keep, s->values), "%s", zds_engine_error(e));
        return;
    }
    unsigned char *at = file->room + file->used;
    NEED(!zds_get_state_bytes(e, p, s->info.name, keep_bytes, at), "%s", zds_engine_error(e));
    if (rank)
        return;
    file->used += s->info.bytes;
    NEED(file->used <= sizeof file->room, "room");
    s->bytes = at;
}

static void save_states(zds_engine *e, uint32_t p, int rank)
{
    zds_state_info info = {.struct_size = sizeof info};
    for (uint32_t i = 0; zds_state(e, p, i, &info); i++) {
        state own = {.info = info}, *s = rank ? &own : &file->states[p][i];
        *s = own;
        save_state(e, p, s, rank);
        if (!rank) {
            snprintf(s->name, sizeof s->name, "%s", info.name);
            file->state_count[p] = i + 1;
        }
    }
}

static void save(int rank, int size)
{
    zds_engine *e = create(size);
    NEED(!zds_set_values(e, small_values, NULL), "%s", zds_engine_error(e));
    train(e, 0, FIRST);
    if (!rank) {
        file->used = file->left_out = 0;
        memset(file->state_count, 0, sizeof file->state_count);
    }
    for (uint32_t p = 0; p < SMALL_PARAMS; p++) {
        NEED(!zds_get_values(e, p, NULL, keep, file->values[p]), "%s", zds_engine_error(e));
        save_states(e, p, rank);
    }
    zds_progress now = {.struct_size = sizeof now};
    NEED(!zds_get_progress(e, &now), "%s", zds_engine_error(e));
    NEED(zds_schedule_state_bytes(e) <= sizeof file->sched, "room");
    if (rank == 0) {
        file->progress = now;
        file->sched_bytes = zds_schedule_state_bytes(e);
        NEED(!zds_get_schedule_state(e, file->sched), "%s", zds_engine_error(e));
    }
    end_with(e, rank);
}

/* What is each rank's own stays out where there are other ranks. */
static void set_one(zds_engine *e, uint32_t p, state *s, int rank)
{
    zds_state_info was = s->info;
    was.name = s->name;
    if (as_values(&was)) {
        NEED(!zds_set_state(e, p, was.name, give, s->values), "%s", zds_engine_error(e));
        return;
    }
    bool other = was.ranks > 1 && was.ranks != zds_world_size(e);
    zds_status status = zds_set_state_bytes(e, p, &was, give_bytes, s->bytes);
    NEED(other ? status != ZDS_OK : !status, "%s", zds_engine_error(e));
    NEED(!other || strstr(zds_engine_error(e), "has no state") ||
             strstr(zds_engine_error(e), "leave it out"),
         "%s", zds_engine_error(e));
    file->left_out += other && !rank;
}

static void resume(int rank, int size)
{
    zds_engine *e = create(size);
    NEED(!zds_set_values(e, give_value, NULL), "%s", zds_engine_error(e));
    for (uint32_t p = 0; p < SMALL_PARAMS; p++) {
        if (p != SMALL_FROZEN)
            NEED(!zds_set_state(e, p, NULL, give, file->values[p]), "%s", zds_engine_error(e));
        for (uint32_t i = 0; i < file->state_count[p]; i++)
            set_one(e, p, &file->states[p][i], rank);
    }
    NEED(!zds_set_progress(e, &file->progress), "%s", zds_engine_error(e));
    NEED(!zds_set_schedule_state(e, file->sched, file->sched_bytes), "%s", zds_engine_error(e));
    train(e, FIRST, FIRST + MORE);
    end_with(e, rank);
}

Test(engine_resume, goes_on_with_the_same_bits)
{
    static const run_of runs[] = {
        {"AdamW", "WarmupLR", "", NULL},
        {"AdamW", "WarmupLR", ", \"bf16\": {\"enabled\": true}", NULL},
        {"AdamW", NULL,
         ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 6, \"loss_scale_window\": 2}",
         NULL},
        {"Adagrad", "reduce_lr_on_plateau", "", NULL},
        {"Lion", "WarmupLR", ", \"bf16\": {\"enabled\": true}", NULL}};
    static const int sizes[][2] = {{1, 2}, {2, 1}, {2, 4}};
    map_file();
    by_values = true;
    for (size_t w = 0; w < sizeof runs / sizeof *runs; w++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            what = &runs[w];
            stage = (int)((w + s) % 4);
            run(1, true, at_once);
            uint64_t want = file->hash;
            double rate = file->rate;
            run(sizes[s][0], true, save);
            cr_expect_neq(file->hash, want);
            stage = (stage + 1) % 4;
            run(sizes[s][1], true, resume);
            cr_expect_eq(file->hash, want, "%s%s, %d ranks to %d", what->optimizer, what->keys,
                         sizes[s][0], sizes[s][1]);
            cr_expect_eq(file->rate, rate, "%s: rate %g, not %g", what->optimizer, file->rate,
                         rate);
        }
    munmap(file, sizeof *file);
}

/* === states of every kind === */

static bool note_name(void *user, const zds_plugin *plugin, const char *from)
{
    (void)user, (void)from;
    NEED(file->name_count < OPTIMIZERS, "room");
    snprintf(file->names[file->name_count++], sizeof *file->names, "%s", plugin->name);
    return true;
}

static void list_optimizers(int rank, int size)
{
    (void)rank, (void)size;
    registry *reg = NULL;
    zds_error error = ZDS_ERROR_INIT;
    const registry_match match = {.space = on_island() ? ZDS_SPACE_TEST : ZDS_SPACE_HOST};
    file->name_count = 0;
    NEED(!registry_create(NULL, NULL, true, &reg, &error), "%s", error.text);
    NEED(!registry_each(reg, ZDS_KIND_OPTIM, &match, note_name, NULL, &error), "%s", error.text);
    registry_destroy(reg);
}

/* Options that give an optimizer all of its states, and let the 1-bit ones pass their warm-up. */
static const char *params_of(const char *name)
{
    static const char *const some[][2] = {{"AdamW8bit", "{\"min_8bit_size\": 0}"},
                                          {"SGD", "{\"momentum\": 0.9, \"dampening\": 0.5}"},
                                          {"ASGD", "{\"t0\": 2}"},
                                          {"OneBitAdam", "{\"freeze_step\": 3}"},
                                          {"OneBitLamb", "{\"freeze_step\": 3}"},
                                          {"ZeroOneAdam", "{\"var_freeze_step\": 3}"}};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        if (strcmp(name, some[i][0]) == 0)
            return some[i][1];
    return NULL;
}

/* A run of `from` ranks that stops, and goes on with `to`, against one of `from` that does not. */
static void stops(const run_of *of, int from, int to, int before, int after)
{
    what = of;
    stage = before;
    run(from, true, at_once);
    uint64_t want = file->hash;
    run(from, true, save);
    stage = after;
    run(to, true, resume);
    cr_expect_eq(file->hash, want, "%s %s: %d ranks to %d, stage %d to %d", of->optimizer,
                 of->params ? of->params : "", from, to, before, after);
}

static bool reduces_itself(const char *name)
{
    return strcmp(name, "OneBitAdam") == 0 || strcmp(name, "OneBitLamb") == 0 ||
           strcmp(name, "ZeroOneAdam") == 0;
}

Test(engine_resume, every_optimizer_goes_on_by_the_bytes_of_its_states)
{
    static const int sizes[][2] = {{1, 2}, {2, 1}, {2, 4}};
    map_file();
    run(1, true, list_optimizers);
    cr_expect_geq(file->name_count, 20);
    by_values = false;
    for (uint32_t i = 0; i < file->name_count; i++) {
        const char *name = file->names[i];
        const run_of of = {name, "WarmupLR", i % 2 ? ", \"bf16\": {\"enabled\": true}" : "",
                           params_of(name)};
        bool own = reduces_itself(name);
        unlike = own; /* errors of each rank's own */
        if (own)
            stops(&of, 2, 2, strcmp(name, "ZeroOneAdam") != 0, 0);
        for (uint32_t s = 0; !own && s < (on_island() ? 1 : 3); s++) {
            const int *of_ranks = sizes[(i + s) % 3];
            stops(&of, of_ranks[0], of_ranks[1], (int)(i / 3 + s) % 3, (int)(i / 3 + s + 1) % 3);
        }
    }
    munmap(file, sizeof *file);
}

#define DISK ", \"zds\": {\"tiers\": {\"disk\": {\"type\": \"nvme\"}}}"

/* In records of several tiles, of a device, and in files; and in the host's memory as ever. */
Test(engine_resume, states_that_rest_elsewhere_go_on)
{
    static const run_of files[] = {{"AdamW8bit", NULL, DISK, "{\"min_8bit_size\": 4096}"},
                                   {"NAdam", NULL, DISK ", \"bf16\": {\"enabled\": true}", NULL}};
    static const run_of runs[] = {{"AdamW8bit", "WarmupLR", "", "{\"min_8bit_size\": 4096}"},
                                  {"NAdam", "WarmupLR", ", \"bf16\": {\"enabled\": true}", NULL}};
    map_file();
    small_width = 106; /* the table has more than a tile */
    zero_keys = ", \"offload_optimizer\": {\"device\": \"cpu\"}";
    for (size_t w = 0; w < sizeof runs / sizeof *runs; w++)
        for (int to = 1; to <= 2; to++) {
            by_values = to == 2; /* what has values */
            stops(&runs[w], 3 - to, to, 1, 2);
        }
    zero_keys =
        ", \"offload_optimizer\": {\"device\": \"disk\", \"nvme_path\": \"" TEST_BINARY_DIR "\"}";
    for (size_t w = 0; !on_island() && w < sizeof files / sizeof *files; w++)
        for (int to = 1; to <= 2; to++) {
            by_values = to == 2;
            stops(&files[w], 3 - to, to, 1, 3);
        }
    munmap(file, sizeof *file);
}

/* In the warm-up there are no errors yet, and moments are the same on all ranks. */
Test(engine_resume, one_bit_optimizers_go_on_with_other_ranks)
{
    static const run_of runs[] = {{"OneBitAdam", "WarmupLR", "", NULL},
                                  {"OneBitLamb", "WarmupLR", "", NULL}};
    map_file();
    by_values = true;
    unlike = false;
    for (size_t w = 0; w < sizeof runs / sizeof *runs; w++)
        for (int from = 2; from <= 4; from += 2) {
            stops(&runs[w], from, from / 2, 1, 1);
            cr_expect_gt(file->left_out, 0, "%s", runs[w].optimizer);
            stops(&runs[w], from, from == 2 ? 4 : 2, 0, 1);
        }
    munmap(file, sizeof *file);
}

static zds_status broken_bytes(void *user, uint64_t first, uint64_t count, void *out)
{
    (void)user, (void)first, (void)count, (void)out;
    return ZDS_ERR_IO;
}

static void expect_refused(zds_engine *e, zds_status status, zds_status want, const char *text)
{
    NEED(status == want && strstr(zds_engine_error(e), text), "%s: %s, not %s",
         zds_status_name(status), zds_engine_error(e), text);
}

static zds_status set_as(zds_engine *e, uint32_t param, const zds_state_info *info)
{
    return zds_set_state_bytes(e, param, info, give_bytes, file->room);
}

static void refused(int rank, int size)
{
    zds_engine *e = create(size);
    zds_state_info is = {.struct_size = sizeof is}, was, none = {0};
    NEED(zds_state(e, 0, 2, &is) && strcmp(is.name, "absmax1") == 0, "the third state");
    NEED(is.kind == ZDS_STATE_BLOCK && is.block == 256 && is.bytes == 14 * 4 && is.ranks == 1,
         "14 blocks of 3456 elements");
    NEED(!zds_state(e, 0, 4, &is) && !zds_state(e, SMALL_FROZEN, 0, &is) &&
             !zds_state(e, SMALL_PARAMS, 0, &is) && !zds_state(e, 0, 0, &none),
         "no more");
    expect_refused(e, set_as(e, 0, &is), ZDS_ERR_INVALID, "before zds_set_values");
    expect_refused(e, zds_get_state_bytes(e, 0, is.name, keep_bytes, file->room), ZDS_ERR_INVALID,
                   "before zds_set_values");
    NEED(!zds_set_values(e, small_values, NULL), "%s", zds_engine_error(e));
    NEED(zds_state(e, 0, 2, &is), "the third state");
    if (!rank)
        memset(file->room, 1, is.bytes);
    NEED(!set_as(e, 0, &is), "%s", zds_engine_error(e));
    NEED(!zds_set_values(e, small_values, NULL), "%s", zds_engine_error(e));
    NEED(!zds_get_state_bytes(e, 0, is.name, keep_bytes, file->room), "%s", zds_engine_error(e));
    NEED(rank || !file->room[0], "other values have states of their own");
    train(e, 0, 2);
    small_sum before, after;
    NEED(!small_hash(e, &before), "%s", zds_engine_error(e));
    expect_refused(e, set_as(e, 0, NULL), ZDS_ERR_INVALID, "zds_state told");
    expect_refused(e, set_as(e, 0, &none), ZDS_ERR_INVALID, "struct_size");
    none.struct_size = sizeof none;
    expect_refused(e, set_as(e, 0, &none), ZDS_ERR_INVALID, "with its name");
    none.name = "exp_avg";
    expect_refused(e, set_as(e, 0, &none), ZDS_ERR_NOT_FOUND, "no state exp_avg");
    expect_refused(e, set_as(e, SMALL_FROZEN, &is), ZDS_ERR_NOT_FOUND, "frozen");
    expect_refused(e, set_as(e, SMALL_PARAMS, &is), ZDS_ERR_NOT_FOUND, "model has");
    if (size == 1) /* others than rank 0 need none */
        expect_refused(e, zds_set_state_bytes(e, 0, &is, NULL, NULL), ZDS_ERR_INVALID, "function");
    expect_refused(e, zds_get_state_bytes(e, 0, "absmax3", keep_bytes, file->room),
                   ZDS_ERR_NOT_FOUND, "absmax3");
    expect_refused(e, zds_get_state_bytes(e, 0, NULL, keep_bytes, file->room), ZDS_ERR_NOT_FOUND,
                   "no state");
    was = is, was.bytes++;
    expect_refused(e, set_as(e, 0, &was), ZDS_ERR_INVALID, "bytes was 57");
    was = is, was.version++;
    expect_refused(e, set_as(e, 0, &was), ZDS_ERR_INVALID, "version was");
    was = is, was.kind = ZDS_STATE_TENSOR;
    expect_refused(e, set_as(e, 0, &was), ZDS_ERR_INVALID, "kind was");
    was = is, was.block = 128;
    expect_refused(e, set_as(e, 0, &was), ZDS_ERR_INVALID, "block was 128");
    was = is, was.dtype = ZDS_F16;
    expect_refused(e, set_as(e, 0, &was), ZDS_ERR_INVALID, "dtype was");
    was = is, was.scope = ZDS_SCOPE_RANK_LOCAL;
    expect_refused(e, set_as(e, 0, &was), ZDS_ERR_INVALID, "scope was");
    NEED(!zds_micro_begin(e, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(e));
    expect_refused(e, set_as(e, 0, &is), ZDS_ERR_INVALID, "middle");
    NEED(!zds_step(e, NULL), "%s", zds_engine_error(e));
    NEED(!small_hash(e, &after) && (rank || before.hash == after.hash), "nothing has changed");
    NEED(!zds_get_state_bytes(e, 0, is.name, keep_bytes, file->room) && !set_as(e, 0, &is), "%s",
         zds_engine_error(e));
    expect_refused(e, zds_set_state_bytes(e, 0, &is, broken_bytes, NULL), ZDS_ERR_IO, "new engine");
    zds_engine_destroy(e);
}

Test(engine_resume, states_of_another_meaning_are_refused)
{
    static const run_of blocks = {"AdamW8bit", NULL, "", "{\"min_8bit_size\": 0}"};
    map_file();
    what = &blocks;
    stage = 1;
    run(1, true, refused);
    run(2, true, refused);
    munmap(file, sizeof *file);
}
