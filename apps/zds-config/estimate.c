/* zds-config estimate: what a model's states take at every stage of ZeRO and with every offload,
 * and the first configuration that fits into a given memory.
 *
 * Model states for P trainable parameters and N ranks (Rajbhandari et al. 2020, "ZeRO", section
 * 3.1): parameters, gradients, and the optimizer's states with the fp32 master. Activations and the
 * program's own memory are not in it. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "common/output.h"
#include "common/safetensors.h"

typedef struct question {
    double parameters;
    double ranks, per_node; /* ranks of the run, and of a node */
    bool half;              /* 16-bit parameters with an fp32 master */
    bool accumulates;       /* gradients of several micro steps are added in fp32 */
    double states;          /* fp32 values that the optimizer keeps for a parameter */
    double bucket;          /* reduce_bucket_size */
    double live;            /* stage3_max_live_parameters */
    bool on_host;           /* the compute memory is host memory */
} question;

/* Where a row of the table puts things. */
typedef struct plan {
    int stage;
    const char *optimizer, *param; /* offload devices */
} plan;

/* Cheapest in time first: what is not shared or moved costs no communication. */
static const plan plans[] = {
    {0, "none", "none"}, {1, "none", "none"}, {2, "none", "none"}, {3, "none", "none"},
    {1, "cpu", "none"},  {2, "cpu", "none"},  {3, "cpu", "none"},  {3, "cpu", "cpu"},
    {3, "nvme", "none"}, {3, "nvme", "cpu"},  {3, "nvme", "nvme"},
};
enum { PLANS = sizeof plans / sizeof *plans };

/* Bytes of one rank, by purpose and by tier. */
typedef struct answer {
    double parameters, gradients, states, buffers;
    double compute, host, file; /* where they are */
} answer;

static void place(answer *a, const char *device, double bytes)
{
    if (strcmp(device, "none") == 0)
        a->compute += bytes;
    else if (strcmp(device, "cpu") == 0)
        a->host += bytes;
    else
        a->file += bytes;
}

static answer estimate(const question *q, const plan *p)
{
    double element = q->half ? 2 : 4, n = q->ranks, all = q->parameters;
    answer a = {0};
    double shared = p->stage == 1 || p->stage == 2 ? fmin(q->per_node, n) : 1; /* pages */
    a.parameters = all * element / (p->stage == 3 ? n : shared);
    a.gradients = all * (q->half && q->accumulates ? 4 : element) / (p->stage >= 2 ? n : 1);
    a.states = all * 4 * (q->states + (q->half ? 1 : 0)) / (p->stage >= 1 ? n : 1);
    a.buffers = n > 1 || p->stage >= 2 ? fmin(q->bucket, all) * element : 0;
    if (p->stage == 3)
        a.buffers += fmin(q->live, all) * element;
    place(&a, p->stage == 3 ? p->param : "none", a.parameters);
    place(&a, p->optimizer, a.states);
    a.compute += a.gradients + a.buffers;
    return a;
}

/* Bytes of the memory that the limit is about. */
static double limited(const question *q, const answer *a)
{
    return q->on_host ? a->compute + a->host : a->compute;
}

/* === the model === */

static double number_of(const cJSON *tree, const char *name)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(tree, name);
    return cJSON_IsNumber(node) ? node->valuedouble : 0;
}

/* A GPT-2 by its config.json: tied embeddings, blocks of 12 h^2 + 13 h, the last norm. */
static double count_config(const char *path)
{
    char text[65536];
    FILE *in = fopen(path, "rbe");
    size_t length = in ? fread(text, 1, sizeof text - 1, in) : 0;
    if (in)
        fclose(in);
    cJSON *tree = cJSON_ParseWithLength(text, length);
    double h = number_of(tree, "n_embd"), layers = number_of(tree, "n_layer"),
           rows = number_of(tree, "vocab_size") + number_of(tree, "n_positions"),
           inner = number_of(tree, "n_inner");
    cJSON_Delete(tree);
    inner = inner > 0 ? inner : 4 * h;
    return h > 0 && layers > 0 && rows > 0
               ? rows * h + layers * (4 * h * h + 2 * h * inner + 9 * h + inner) + 2 * h
               : 0;
}

/* Elements of all tensors of a model folder; 0 after telling why not. */
static double count_folder(const char *folder)
{
    static const char *const names[] = {"model.safetensors.index.json", "model.safetensors"};
    char path[4096];
    for (size_t i = 0; i < 2; i++) {
        safetensors *file;
        zds_error error = ZDS_ERROR_INIT;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (access(path, F_OK) != 0)
            continue;
        double count = 0;
        if (safetensors_open(path, &file, &error) != ZDS_OK) {
            output_error("%s", error.text);
            zds_error_clear(&error);
            return 0;
        }
        for (size_t k = 0; k < safetensors_count(file); k++)
            count += (double)safetensors_at(file, k)->count;
        safetensors_close(file);
        return count;
    }
    snprintf(path, sizeof path, "%s/config.json", folder);
    double count = count_config(path);
    if (count <= 0)
        output_error("%s: no safetensors, and no config.json of a GPT-2; use --params", folder);
    return count;
}

/* === output === */

static cJSON *ready_config(const question *q, const plan *p)
{
    cJSON *ds = cJSON_CreateObject();
    cJSON_AddStringToObject(ds, "train_batch_size", "auto");
    cJSON_AddStringToObject(ds, "train_micro_batch_size_per_gpu", "auto");
    cJSON_AddStringToObject(ds, "gradient_accumulation_steps", "auto");
    cJSON_AddBoolToObject(cJSON_AddObjectToObject(ds, "bf16"), "enabled", q->half);
    cJSON *zero = cJSON_AddObjectToObject(ds, "zero_optimization");
    cJSON_AddNumberToObject(zero, "stage", p->stage);
    cJSON_AddNumberToObject(zero, "reduce_bucket_size", q->bucket);
    const char *names[] = {"offload_optimizer", "offload_param"},
               *devices[] = {p->optimizer, p->param};
    for (size_t i = 0; i < 2; i++) {
        if (strcmp(devices[i], "none") == 0)
            continue;
        cJSON *section = cJSON_AddObjectToObject(zero, names[i]);
        cJSON_AddStringToObject(section, "device", devices[i]);
        if (strcmp(devices[i], "nvme") == 0)
            cJSON_AddStringToObject(section, "nvme_path", "/local_nvme");
    }
    return ds;
}

static cJSON *row_json(const question *q, const plan *p, const answer *a)
{
    cJSON *row = cJSON_CreateObject();
    const struct {
        const char *name;
        double bytes;
    } cells[] = {{"parameters", a->parameters},
                 {"gradients", a->gradients},
                 {"optimizer", a->states},
                 {"buffers", a->buffers},
                 {"compute", a->compute},
                 {"host", a->host},
                 {"file", a->file},
                 {"node_compute", a->compute * q->per_node},
                 {"node_host", a->host * q->per_node}};
    cJSON_AddNumberToObject(row, "stage", p->stage);
    cJSON_AddStringToObject(row, "offload_optimizer", p->optimizer);
    cJSON_AddStringToObject(row, "offload_param", p->param);
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
        cJSON_AddNumberToObject(row, cells[i].name, cells[i].bytes);
    return row;
}

static void show_bytes(double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t unit = 0;
    for (; bytes >= 1024 && unit < 5; unit++)
        bytes /= 1024;
    printf(" %7.*f %-3s", unit ? 2 : 0, bytes, units[unit]);
}

static void print_table(const question *q)
{
    printf("%.0f parameters, %.0f ranks, %.0f on a node, %s; bytes of one rank\n\n", q->parameters,
           q->ranks, q->per_node, q->half ? "bf16 with fp32 master" : "fp32");
    printf("stage optimizer param  parameters   gradients   optimizer   buffers   | compute       "
           "host        file        node: compute\n");
    for (size_t i = 0; i < PLANS; i++) {
        answer a = estimate(q, &plans[i]);
        const double cells[] = {a.parameters, a.gradients, a.states, a.buffers,
                                a.compute,    a.host,      a.file,   a.compute * q->per_node};
        printf("%5d %-9s %-5s", plans[i].stage, plans[i].optimizer, plans[i].param);
        for (size_t c = 0; c < sizeof cells / sizeof *cells; c++)
            show_bytes(cells[c]);
        putchar('\n');
    }
}

static int answer_all(const question *q, double memory, bool json)
{
    const plan *fits = NULL;
    cJSON *out = json ? cJSON_CreateObject() : NULL,
          *rows = json ? cJSON_AddArrayToObject(out, "rows") : NULL;
    for (size_t i = 0; i < PLANS; i++) {
        answer a = estimate(q, &plans[i]);
        if (!fits && memory > 0 && limited(q, &a) <= memory)
            fits = &plans[i];
        if (json)
            cJSON_AddItemToArray(rows, row_json(q, &plans[i], &a));
    }
    cJSON *ready = fits ? ready_config(q, fits) : NULL;
    if (json) {
        cJSON_AddNumberToObject(out, "num_parameters", q->parameters);
        cJSON_AddItemToObject(out, "fits", ready ? ready : cJSON_CreateNull());
        int code = output_json(out);
        return code == EXIT_DONE && memory > 0 && !fits ? EXIT_FAILED : code;
    }
    print_table(q);
    if (memory <= 0)
        return output_end();
    if (!fits) {
        int code = output_end();
        return code ? code
                    : output_error("nothing fits into %.0f bytes a rank; take more ranks, or more "
                                   "memory",
                                   memory);
    }
    printf("\nfirst that fits into");
    show_bytes(memory);
    printf(" a rank:\n");
    return output_json(ready);
}

int command_estimate(int argc, char **argv)
{
    int64_t parameters = 0, ranks = 1, per_node = 0, memory = 0, accumulation = 1, states = 2;
    int64_t bucket = 500000000, live = 1000000000;
    const char *dtype = "bf16", *compute = "host";
    bool json = false;
    args_option options[] = {
        {.name = "params",
         .type = ARGS_COUNT,
         .value = &parameters,
         .meta = "N",
         .doc = "trainable parameters, instead of a folder"},
        {.name = "world-size",
         .type = ARGS_INT,
         .value = &ranks,
         .meta = "N",
         .doc = "ranks of the run (1)"},
        {.name = "ranks-per-node",
         .type = ARGS_INT,
         .value = &per_node,
         .meta = "L",
         .doc = "ranks that share a node (all)"},
        {.name = "dtype",
         .type = ARGS_STRING,
         .value = &dtype,
         .meta = "T",
         .doc = "bf16, fp16 (with an fp32 master) or fp32 (bf16)"},
        {.name = "gradient-accumulation-steps",
         .type = ARGS_INT,
         .value = &accumulation,
         .meta = "G",
         .doc = "micro steps in a step; more than 1 accumulate in fp32 (1)"},
        {.name = "optimizer-states",
         .type = ARGS_INT,
         .value = &states,
         .meta = "K",
         .doc = "values that the optimizer keeps for a parameter (2, as Adam)"},
        {.name = "reduce-bucket-size",
         .type = ARGS_COUNT,
         .value = &bucket,
         .meta = "N",
         .doc = "elements (500M)"},
        {.name = "max-live-parameters",
         .type = ARGS_COUNT,
         .value = &live,
         .meta = "N",
         .doc = "elements gathered at once at stage 3 (1G)"},
        {.name = "compute",
         .type = ARGS_STRING,
         .value = &compute,
         .meta = "WHERE",
         .doc = "host: offload to cpu saves nothing; device: it does (host)"},
        {.name = "memory",
         .type = ARGS_COUNT,
         .value = &memory,
         .meta = "BYTES",
         .doc = "of a rank: print the first configuration that fits, ready to use"},
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"},
    };
    const args_program program = {
        .usage = "estimate (FOLDER | --params N) [--world-size N] [--memory BYTES] [options]",
        .doc = "Bytes of parameters, gradients, optimizer states and buffers at every stage and "
               "offload choice, for the\nmodel in FOLDER. Activations are not counted.",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .max_words = 1};
    args_words words;
    int code = args_parse(&program, argc, argv, &words);
    if (code != ARGS_GO)
        return code;
    bool half = strcmp(dtype, "bf16") == 0 || strcmp(dtype, "fp16") == 0,
         host = strcmp(compute, "host") == 0;
    if ((words.count > 0) == (parameters > 0))
        return args_wrong("give a model folder or --params, one of them");
    if (!half && strcmp(dtype, "fp32") != 0)
        return args_wrong("--dtype is bf16, fp16 or fp32");
    if (!host && strcmp(compute, "device") != 0)
        return args_wrong("--compute is host or device");
    per_node = per_node ? per_node : ranks;
    if (ranks < 1 || per_node < 1 || accumulation < 1 || states < 0)
        return args_wrong("ranks and steps are at least 1");
    question q = {.parameters = parameters ? (double)parameters : count_folder(words.word[0]),
                  .ranks = (double)ranks,
                  .per_node = (double)(per_node < ranks ? per_node : ranks),
                  .half = half,
                  .accumulates = accumulation > 1,
                  .states = (double)states,
                  .bucket = (double)bucket,
                  .live = (double)live,
                  .on_host = host};
    return q.parameters > 0 ? answer_all(&q, (double)memory, json) : EXIT_FAILED;
}
