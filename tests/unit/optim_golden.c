/* Optimizers (and the schedule of a run) against golden runs of DeepSpeed: the same initial weights
 * and gradients, without the engine. Folder replay: see cases.json there. Runs of one rank whose
 * every micro step is a step. */
#include "optim_harness.h"

/* === safetensors, as far as these files go === */

typedef struct tensors {
    char *bytes;
    cJSON *header;
    const char *data;
} tensors;

static tensors tensors_open(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/replay/%s.safetensors", TEST_DATA, folder);
    if (name)
        snprintf(path, sizeof path, "%s/replay/%s/%s.safetensors", TEST_DATA, folder, name);
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s", path);
    cr_assert_eq(fseek(f, 0, SEEK_END), 0);
    size_t size = (size_t)ftell(f);
    rewind(f);
    tensors t = {.bytes = malloc(size)};
    cr_assert(t.bytes && size > 8 && fread(t.bytes, 1, size, f) == size);
    fclose(f);
    uint64_t header;
    memcpy(&header, t.bytes, 8);
    cr_assert(header <= size - 8);
    t.header = cJSON_ParseWithLength(t.bytes + 8, header);
    cr_assert_not_null(t.header);
    t.data = t.bytes + 8 + header;
    return t;
}

static void tensors_close(tensors *t)
{
    cJSON_Delete(t->header);
    free(t->bytes);
}

/* Values of a tensor and how many; NULL if there is none of this name. */
static const float *tensor(const tensors *t, const char *prefix, const char *name, uint64_t *count)
{
    char key[256];
    snprintf(key, sizeof key, "%s%s", prefix, name);
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(t->header, key);
    if (!entry)
        return NULL;
    const cJSON *offsets = cJSON_GetObjectItem(entry, "data_offsets");
    uint64_t from = (uint64_t)offsets->child->valuedouble;
    *count = ((uint64_t)offsets->child->next->valuedouble - from) / sizeof(float);
    return (const float *)(const void *)(t->data + from);
}

/* === a run === */

static cJSON *cases_open(void)
{
    FILE *f = fopen(TEST_DATA "/replay/cases.json", "rb");
    cr_assert_not_null(f);
    cr_assert_eq(fseek(f, 0, SEEK_END), 0);
    size_t size = (size_t)ftell(f);
    rewind(f);
    char *text = calloc(1, size + 1);
    cr_assert(text && fread(text, 1, size, f) == size);
    fclose(f);
    cJSON *tree = cJSON_Parse(text);
    free(text);
    cr_assert_not_null(tree);
    return tree;
}

/* The golden momenta of OneCycle; the other schedules move the rate alone. */
static void set_betas(optim *o, const cJSON *config, int step)
{
    const cJSON *scheduler = cJSON_GetObjectItem(config, "scheduler");
    if (!scheduler || strcmp(cJSON_GetObjectItem(scheduler, "type")->valuestring, "OneCycle") != 0)
        return;
    const cJSON *p = cJSON_GetObjectItem(scheduler, "params");
    double least = cJSON_GetObjectItem(p, "cycle_min_mom")->valuedouble;
    double most = cJSON_GetObjectItem(p, "cycle_max_mom")->valuedouble;
    double half = cJSON_GetObjectItem(p, "cycle_first_step_size")->valuedouble;
    /* at creation the least; then from the largest down and up again */
    double x = fmin(step, 2 * half) / half;
    double scale = x <= 1 ? x : 2 - x;
    o->hyper.beta1 = step == 0 ? least : most - (most - least) * scale;
    o->hyper.beta2 = 0.99;
}

typedef struct run {
    const cJSON *test, *config;
    const char *file, *name;
    optim o;
    zds_dtype type; /* of gradients */
    double *gaps;   /* |weight - golden weight| of all elements */
    uint64_t gap_count;
} run;

/* L2 norm over all parameters, as the gradients arrive. */
static double norm_of(const run *r, const tensors *grads)
{
    double sum = 0;
    for (const cJSON *entry = grads->header->child; entry; entry = entry->next) {
        uint64_t count = 0;
        const float *g = cJSON_GetObjectItem(entry, "data_offsets")
                             ? tensor(grads, "", entry->string, &count)
                             : NULL;
        for (uint64_t i = 0; i < count; i++) {
            double rounded = round_dtype((double)g[i], r->type);
            sum += rounded * rounded;
        }
    }
    return sqrt(sum);
}

static double clip_scale(const run *r, const tensors *grads)
{
    double clip = cJSON_GetObjectItem(r->config, "gradient_clipping")->valuedouble;
    double norm = norm_of(r, grads);
    return clip <= 0 || norm <= clip ? 1 : clip / (norm + 1e-6);
}

static void run_parameter(run *r, const tensors *init)
{
    uint64_t count = 0;
    const float *values = tensor(init, "", r->name, &count);
    cr_assert_not_null(values);
    const cJSON *optimizer = cJSON_GetObjectItem(r->config, "optimizer");
    char *options = cJSON_PrintUnformatted(cJSON_GetObjectItem(optimizer, "params"));
    optim_setup s = {.file = r->file,
                     .name = cJSON_GetObjectItem(optimizer, "type")->valuestring,
                     .options = options,
                     .count = count,
                     .master = ZDS_F32,
                     .grad = r->type,
                     .output = r->type,
                     .state = ZDS_F32};
    optim_open(&r->o, &s);
    for (uint64_t i = 0; i < count; i++)
        write_at(r->o.master.data, ZDS_F32, i, round_dtype((double)values[i], r->type));
    const cJSON *steps = cJSON_GetObjectItem(r->test, "steps");
    for (int k = 0; k < cJSON_GetArraySize(steps); k++) {
        char name[64];
        snprintf(name, sizeof name, "m%03d.r0", k);
        tensors grads = tensors_open("grads/normal", name);
        const float *g = tensor(&grads, "", r->name, &count);
        const cJSON *step = cJSON_GetArrayItem(steps, k);
        double scale = cJSON_GetObjectItem(step, "loss_scale")->valuedouble;
        for (uint64_t i = 0; i < count; i++)
            write_at(r->o.grad.data, r->type, i, round_dtype((double)g[i] * scale, r->type));
        r->o.hyper.lr = cJSON_GetObjectItem(step, "lr")->valuedouble;
        r->o.grad_scale = clip_scale(r, &grads) / scale;
        set_betas(&r->o, r->config, k);
        optim_step(&r->o, 64);
        tensors_close(&grads);
    }
    cJSON_free(options);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void compare_state(const run *r, const tensors *expect, const char *state)
{
    char prefix[64];
    uint64_t count = 0;
    snprintf(prefix, sizeof prefix, "%s.", state);
    const float *values = tensor(expect, prefix, r->name, &count);
    /* DeepSpeed's Lion carries a second state of zeros that it never uses. */
    if (strcmp(r->o.setup.name, "Lion") == 0 && strcmp(state, "exp_avg_sq") == 0)
        return;
    for (uint64_t i = 0; values && i < count; i++)
        cr_assert(fabs(optim_state(&r->o, state, i) - (double)values[i]) <=
                      (r->type == ZDS_F32 ? 1e-5 : 3e-2),
                  "%s: %s of %s, element %llu: %g, expected %g",
                  cJSON_GetObjectItem(r->test, "id")->valuestring, state, r->name,
                  (unsigned long long)i, optim_state(&r->o, state, i), (double)values[i]);
}

static void compare_parameter(run *r, const tensors *expect)
{
    uint64_t count = 0;
    const float *values = tensor(expect, "param.", r->name, &count);
    cr_assert_not_null(values);
    r->gaps = realloc(r->gaps, (r->gap_count + count) * sizeof *r->gaps);
    for (uint64_t i = 0; i < count; i++)
        r->gaps[r->gap_count++] = fabs(optim_weight(&r->o, i) - (double)values[i]);
    compare_state(r, expect, "exp_avg");
    compare_state(r, expect, "exp_avg_sq");
}

static zds_dtype gradient_type(const cJSON *config)
{
    return cJSON_GetObjectItem(config, "bf16")   ? ZDS_BF16
           : cJSON_GetObjectItem(config, "fp16") ? ZDS_F16
                                                 : ZDS_F32;
}

static void run_case(const cJSON *cases, const cJSON *test, const char *file)
{
    const char *id = cJSON_GetObjectItem(test, "id")->valuestring;
    run r = {.test = test, .config = cJSON_GetObjectItem(test, "ds_config"), .file = file};
    r.type = gradient_type(r.config);
    tensors init = tensors_open("init", NULL), expect = tensors_open("expect", id);
    const cJSON *param = cJSON_GetObjectItem(cases, "params")->child;
    for (; param; param = param->next) {
        r.name = cJSON_GetObjectItem(param, "name")->valuestring;
        run_parameter(&r, &init);
        compare_parameter(&r, &expect);
        optim_close(&r.o);
    }
    qsort(r.gaps, r.gap_count, sizeof *r.gaps, ascending);
    const cJSON *tol = cJSON_GetObjectItem(test, "tol");
    double p99 = r.gaps[(size_t)(0.99 * (double)r.gap_count)], most = r.gaps[r.gap_count - 1];
    cr_assert(p99 <= cJSON_GetObjectItem(tol, "p99")->valuedouble &&
                  most <= cJSON_GetObjectItem(tol, "max")->valuedouble,
              "%s: weights are off by %g (99th percentile) and %g (most)", id, p99, most);
    free(r.gaps);
    tensors_close(&init);
    tensors_close(&expect);
}

/* Which golden run, and the plugin that it names. */
static const struct {
    const char *id, *file;
} runs[] = {
    {"adamw_fp32_z0_w1", "optim_adamw"},
    {"adamw_fp32_z2_w1", "optim_adamw"},
    {"adamw_bf16_z1_w1", "optim_adamw"},
    {"adamw_fp16_static_z2_w1", "optim_adamw"},
    {"adam_l2_z0_w1", "optim_adamw"},
    {"adam_l2_z2_w1", "optim_adamw"},
    {"adam_nobias_z0_w1", "optim_adamw"},
    {"onecycle_z0_w1", "optim_adamw"},
    {"adamw_amsgrad_torch_z2_w1", "optim_adamw"},
    {"sgd_z0_w1", "optim_sgd"},
    {"adagrad_z0_w1", "optim_adagrad"},
    {"adagrad_z2_w1", "optim_adagrad"},
    {"rmsprop_z0_w1", "optim_rmsprop"},
    {"rmsprop_z2_w1", "optim_rmsprop"},
    {"adamax_z0_w1", "optim_adamax"},
    {"adamax_z2_w1", "optim_adamax"},
    {"nadam_z0_w1", "optim_nadam"},
    {"nadam_z2_w1", "optim_nadam"},
    {"radam_z0_w1", "optim_radam"},
    {"radam_z2_w1", "optim_radam"},
    {"adadelta_z0_w1", "optim_adadelta"},
    {"adadelta_z2_w1", "optim_adadelta"},
    {"lion_z2_w1", "optim_lion"},
    {"sgd_z2_w1", "optim_sgd"},
    {"lamb_z0_w1", "optim_lamb"},
    {"lamb_nobias_z0_w1", "optim_lamb"},
};

Test(optim_golden, as_the_reference)
{
    cJSON *cases = cases_open();
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        const cJSON *test = cJSON_GetObjectItem(cases, "cases")->child;
        while (test && strcmp(cJSON_GetObjectItem(test, "id")->valuestring, runs[i].id) != 0)
            test = test->next;
        cr_assert_not_null(test, "no golden run %s", runs[i].id);
        run_case(cases, test, runs[i].file);
    }
    cJSON_Delete(cases);
}
