/* zds-config estimate: what training takes of memory at every stage of ZeRO and with every offload,
 * and the first configuration that fits into a given memory.
 *
 * For what this version does the engine itself is asked (zds_engine_plan). The rest, and what has
 * no room in this machine's address space, follows the formulas: model states for P trainable
 * parameters and N ranks (Rajbhandari et al. 2020, "ZeRO", section 3.1), and of buffers two modules
 * for gradients on their way and three for parameters gathered at stage 3. Activations and the
 * program's own memory are not in it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/fail.h"
#include "common/output.h"
#include "shapes.h"

typedef struct question {
    shapes shapes;
    double ranks, per_node;
    const char *dtype, *optimizer; /* optimizer NULL: the program's own, AdamW */
    int64_t accumulation;
    double state_bytes; /* that the optimizer keeps for a parameter, beside a master weight */
    double memory;      /* of a rank; 0: not given */
    double host_memory; /* of a node, beside it; 0: not limited */
    bool on_host;       /* the compute memory is host memory */
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
enum { GATHERED = 3 }; /* modules, at stage 3 */

/* Bytes of one rank, by purpose and by tier. A page that ranks of a node share counts in parts. */
typedef struct answer {
    double parameters, gradients, states, buffers;
    double compute, host, file; /* where they are */
    bool implemented, fits;
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

static void place_all(answer *a, const plan *p)
{
    place(a, p->stage == 3 ? p->param : "none", a->parameters);
    place(a, p->optimizer, a->states);
    a->compute += a->gradients + a->buffers;
}

static bool is_half(const question *q)
{
    return strcmp(q->dtype, "fp32") != 0;
}

static answer by_formula(const question *q, const plan *p)
{
    double element = is_half(q) ? 2 : 4, n = q->ranks, all = q->shapes.parameters;
    bool wider = is_half(q) && q->accumulation > 1; /* micro steps are added in fp32 */
    answer a = {0};
    double shared = p->stage == 1 || p->stage == 2 ? q->per_node : 1;
    a.parameters = all * element / (p->stage == 3 ? n : shared);
    a.gradients = all * (wider ? 4 : element) / (p->stage >= 2 ? n : 1);
    bool moved = strcmp(p->optimizer, "nvme") == 0 ||
                 (strcmp(p->optimizer, "cpu") == 0 && !q->on_host); /* and its masters with it */
    a.states = all * (q->state_bytes + (is_half(q) || moved ? 4 : 0)) / (p->stage >= 1 ? n : 1);
    if (p->stage >= 2 || wider)
        a.buffers += fmin(2 * q->shapes.largest, all) * element;
    if (p->stage == 3)
        a.buffers += fmin(GATHERED * q->shapes.largest, all) * element;
    place_all(&a, p);
    return a;
}

/* === the config of a plan === */

static cJSON *plan_config(const question *q, const plan *p)
{
    cJSON *ds = cJSON_CreateObject();
    cJSON_AddNumberToObject(ds, "train_micro_batch_size_per_gpu", 1);
    cJSON_AddNumberToObject(ds, "gradient_accumulation_steps", (double)q->accumulation);
    if (q->optimizer) {
        cJSON *optimizer = cJSON_AddObjectToObject(ds, "optimizer");
        cJSON_AddStringToObject(optimizer, "type", q->optimizer);
        cJSON_AddObjectToObject(optimizer, "params");
    }
    if (is_half(q))
        cJSON_AddTrueToObject(cJSON_AddObjectToObject(ds, q->dtype), "enabled");
    cJSON *zero = cJSON_AddObjectToObject(ds, "zero_optimization");
    cJSON_AddNumberToObject(zero, "stage", p->stage);
    /* At stage 3 as much is gathered at a time as keeps a run going, not all that there is. */
    double live = GATHERED * q->shapes.largest;
    if (p->stage == 3 && live >= 1 && live < q->shapes.parameters)
        cJSON_AddNumberToObject(zero, "stage3_max_live_parameters", ceil(live));
    const char *names[] = {"offload_optimizer", "offload_param"},
               *devices[] = {p->optimizer, p->param};
    for (size_t i = 0; i < 2; i++) {
        if (strcmp(devices[i], "none") == 0)
            continue;
        cJSON *section = cJSON_AddObjectToObject(zero, names[i]);
        cJSON_AddStringToObject(section, "device", devices[i]);
        if (strcmp(devices[i], "nvme") == 0)
            cJSON_AddStringToObject(section, "nvme_path", "/local_nvme");
        if (i == 1 && strcmp(devices[i], "nvme") == 0)
            cJSON_AddNumberToObject(section, "max_in_cpu", 0);
    }
    return ds;
}

/* === asking the engine === */

static void add_row(void *user, const zds_memory_row *row)
{
    answer *a = user;
    double bytes = (double)row->bytes;
    if (strcmp(row->purpose, "parameters") == 0) {
        a->parameters += bytes - (double)row->shared;
        a->host += (double)row->shared; /* until ask has divided it */
    } else if (strcmp(row->purpose, "gradients") == 0) {
        a->gradients += bytes;
    } else if (strcmp(row->purpose, "master weights") == 0 ||
               strcmp(row->purpose, "optimizer states") == 0) {
        a->states += bytes;
    } else {
        a->buffers += bytes;
    }
}

/* Its config is none of the user's, who has nothing from a place there. */
static void drop_place(zds_error *error)
{
    const char *what = error->text ? strstr(error->text, "error: ") : NULL;
    if (what)
        memmove(error->text, what, strlen(what) + 1);
}

/* ZDS_ERR_CONFIG, ZDS_ERR_UNSUPPORTED: this version does not do it. */
static zds_status ask(const question *q, const plan *p, const zds_model *model, answer *a,
                      zds_error *error)
{
    const zds_config_context context = {.struct_size = sizeof context,
                                        .world_size = (int32_t)q->ranks};
    /* Ranks of all nodes as if of one: what they would share is known then. At stage 3 each has its
     * own part where they are on several. */
    const zds_engine_options options = {.struct_size = sizeof options,
                                        .world_size = (int32_t)q->ranks,
                                        .local_world_size =
                                            (int32_t)(p->stage == 3 ? q->per_node : q->ranks),
                                        .threads = 1,
                                        .optimizer = "AdamW"};
    zds_config *config = NULL;
    cJSON *ds = plan_config(q, p);
    char *text = cJSON_PrintUnformatted(ds);
    zds_status status = text ? zds_config_load(text, &context, &config, error) : ZDS_ERR_MEMORY;
    *a = (answer){0};
    if (!status)
        status = zds_engine_plan(config, model, &options, add_row, a, error);
    zds_config_destroy(config);
    cJSON_free(text);
    cJSON_Delete(ds);
    if (status) {
        drop_place(error);
        return status;
    }
    a->parameters += a->host / q->per_node;
    a->host = 0;
    a->implemented = true;
    place_all(a, p);
    return ZDS_OK;
}

enum { SAMPLE = 256 };

/* One parameter, large enough for the optimizer's bytes to show, and too small for what the engine
 * puts between large states. */
static zds_model *sample_model(void)
{
    const int64_t shape[] = {SAMPLE, SAMPLE};
    const zds_param_desc desc = {.struct_size = sizeof desc,
                                 .name = "h.0.weight",
                                 .shape = shape,
                                 .ndim = 2,
                                 .role = ZDS_ROLE_MATRIX};
    uint32_t index;
    zds_model *model = zds_model_create();
    if (model && zds_model_add_module(model, "h.0", &index) == ZDS_OK &&
        zds_model_add_param(model, index, &desc, &index) == ZDS_OK)
        return model;
    zds_model_destroy(model);
    return NULL;
}

static bool not_done(zds_status status)
{
    return status == ZDS_ERR_CONFIG || status == ZDS_ERR_UNSUPPORTED;
}

/* The bytes that the optimizer keeps for a parameter: of a plan that every optimizer is fit for. */
static zds_status ask_states(question *q, const zds_model *sample, zds_error *error)
{
    question alone = *q;
    answer a;
    alone.ranks = alone.per_node = 1;
    alone.dtype = "fp32";
    zds_status status = ask(&alone, &plans[0], sample, &a, error);
    q->state_bytes = status ? 0 : a.states / (SAMPLE * SAMPLE);
    return status;
}

static bool fits(const question *q, const answer *a)
{
    if (q->memory <= 0)
        return false;
    if (q->on_host)
        return a->compute + a->host <= q->memory;
    return a->compute <= q->memory &&
           (q->host_memory <= 0 || a->host * q->per_node <= q->host_memory);
}

static zds_status answer_all(question *q, answer *answers, zds_error *error)
{
    zds_model *sample = sample_model();
    zds_status status = sample ? ask_states(q, sample, error) : ZDS_ERR_MEMORY;
    for (size_t i = 0; i < PLANS && !status; i++) {
        answer *a = &answers[i];
        status = ask(q, &plans[i], q->shapes.model, a, error);
        bool implemented = !not_done(status);
        if (!implemented || status == ZDS_ERR_MEMORY) {
            zds_error_clear(error);
            status = ZDS_OK;
            *a = by_formula(q, &plans[i]);
        }
        a->implemented = implemented;
        a->fits = fits(q, a);
    }
    zds_model_destroy(sample);
    return status;
}

/* === output === */

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
                 {"node_host", a->host * q->per_node},
                 {"node_file", a->file * q->per_node}};
    cJSON_AddNumberToObject(row, "stage", p->stage);
    cJSON_AddStringToObject(row, "offload_optimizer", p->optimizer);
    cJSON_AddStringToObject(row, "offload_param", p->param);
    cJSON_AddBoolToObject(row, "implemented", a->implemented);
    if (q->memory > 0)
        cJSON_AddBoolToObject(row, "fits", a->fits);
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
        cJSON_AddNumberToObject(row, cells[i].name, cells[i].bytes);
    return row;
}

static void show_bytes(double bytes, const char *end)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t unit = 0;
    for (; bytes >= 1024 && unit < 5; unit++)
        bytes /= 1024;
    printf("%7.*f %-3s%s", unit ? 2 : 0, bytes, units[unit], end);
}

/* "stage 2, optimizer on cpu" */
static void plan_name(const plan *p, char *text, size_t size)
{
    bool optimizer = strcmp(p->optimizer, "none") != 0, param = strcmp(p->param, "none") != 0;
    snprintf(text, size, "stage %d%s%s%s%s", p->stage, optimizer ? ", optimizer on " : "",
             optimizer ? p->optimizer : "", param ? ", parameters on " : "", param ? p->param : "");
}

static void print_table(const question *q, const answer *answers)
{
    printf("%.0f parameters, %.0f ranks, %.0f on a node, %s, %s; bytes of one rank\n\n"
           "stage optimizer param  parameters  gradients   optimizer   buffers     compute     "
           "host        file        node        in zds%s\n",
           q->shapes.parameters, q->ranks, q->per_node, q->dtype,
           q->optimizer ? q->optimizer : "AdamW", q->memory > 0 ? "\tfits" : "");
    for (size_t i = 0; i < PLANS; i++) {
        const answer *a = &answers[i];
        const double cells[] = {
            a->parameters, a->gradients, a->states, a->buffers,
            a->compute,    a->host,      a->file,   (a->compute + a->host) * q->per_node};
        printf("%5d %-9s %-5s", plans[i].stage, plans[i].optimizer, plans[i].param);
        for (size_t c = 0; c < sizeof cells / sizeof *cells; c++)
            show_bytes(cells[c], " ");
        printf("%s%s\n", a->implemented ? "yes" : "not yet",
               q->memory <= 0 ? ""
               : a->fits      ? "\tyes"
                              : "\tno");
    }
}

/* "stage 3; stage 3, optimizer on cpu": of the plans that fit, those that are (not) done. */
static size_t names_that_fit(const answer *answers, bool implemented, char *text, size_t size)
{
    size_t used = 0;
    *text = '\0';
    for (size_t i = 0; i < PLANS; i++) {
        char name[80];
        if (!answers[i].fits || answers[i].implemented != implemented)
            continue;
        plan_name(&plans[i], name, sizeof name);
        used += (size_t)snprintf(text + used, size - used, "%s%s", used ? "; " : "", name);
    }
    return used;
}

/* Why there is nothing to advise. */
static zds_status explain_misfit(const question *q, const answer *answers, zds_error *error)
{
    char later[PLANS * 80], host[64] = "";
    names_that_fit(answers, false, later, sizeof later);
    if (q->host_memory > 0)
        snprintf(host, sizeof host, " and %.0f bytes of a node's host", q->host_memory);
    return *later
               ? fail(error, ZDS_ERR_UNSUPPORTED,
                      "nothing that this version does fits into %.0f bytes a rank%s (%s would, and "
                      "is not implemented yet); take more ranks",
                      q->memory, host, later)
               : fail(error, ZDS_ERR_UNSUPPORTED,
                      "nothing fits into %.0f bytes a rank%s; take more ranks, or more memory",
                      q->memory, host);
}

static int advise(const question *q, const answer *answers, const answer *first, cJSON *ready)
{
    char now[PLANS * 80], later[PLANS * 80];
    names_that_fit(answers, true, now, sizeof now);
    names_that_fit(answers, false, later, sizeof later);
    printf("\ninto ");
    show_bytes(q->memory, "");
    printf(" a rank fit: %s%s%s\n", now, *later ? "; not implemented yet: " : "", later);
    if (!q->on_host && q->host_memory <= 0 && first->host > 0) {
        printf("the first of them takes ");
        show_bytes(first->host * q->per_node, "");
        printf(" of each node's host memory, which is not limited without --host-memory\n");
    }
    printf("the first of them as a ds_config:\n");
    return output_json(ready);
}

static int print_json(const question *q, const answer *answers, cJSON *ready,
                      const zds_error *misfit)
{
    zds_problem problem = {.path = "", .message = misfit->text, .file = ""};
    const problem_list found = {.list = &problem, .count = misfit->text ? 1 : 0};
    cJSON *out = report_json(misfit->text ? EXIT_FAILED : EXIT_DONE, &found),
          *rows = cJSON_AddArrayToObject(out, "rows");
    for (size_t i = 0; i < PLANS; i++)
        cJSON_AddItemToArray(rows, row_json(q, &plans[i], &answers[i]));
    cJSON_AddNumberToObject(out, "num_parameters", q->shapes.parameters);
    cJSON_AddItemToObject(out, "fits", ready ? ready : cJSON_CreateNull());
    return output_json(out);
}

static int print_all(const question *q, const answer *answers, bool json)
{
    size_t first = 0;
    zds_error misfit = ZDS_ERROR_INIT;
    while (first < PLANS && !(answers[first].fits && answers[first].implemented))
        first++;
    cJSON *ready = first < PLANS ? plan_config(q, &plans[first]) : NULL;
    if (q->memory > 0 && first == PLANS)
        explain_misfit(q, answers, &misfit);
    int code;
    if (json) {
        code = print_json(q, answers, ready, &misfit);
    } else {
        print_table(q, answers);
        code = ready ? advise(q, answers, &answers[first], ready) : output_end();
        if (misfit.text)
            failed(&misfit, false);
    }
    code = code == EXIT_DONE && misfit.text ? EXIT_FAILED : code;
    zds_error_clear(&misfit);
    return code;
}

int command_estimate(int argc, char **argv)
{
    enum { MOST_RANKS = 1 << 20 };
    int64_t parameters = 0, ranks = 1, per_node = 0, memory = 0, host_memory = 0;
    const char *compute = "host";
    question q = {.dtype = "bf16", .accumulation = 1};
    bool json = false;
    args_option options[] = {
        {.name = "params",
         .type = ARGS_COUNT,
         .value = &parameters,
         .meta = "N",
         .doc = "trainable parameters (7e9, 7B) in 32 equal layers, instead of a folder"},
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
         .value = &q.dtype,
         .meta = "T",
         .doc = "bf16, fp16 (both with an fp32 master) or fp32 (bf16)"},
        {.name = "gradient-accumulation-steps",
         .type = ARGS_INT,
         .value = &q.accumulation,
         .meta = "G",
         .doc = "micro steps in a step; more than 1 accumulate in fp32 (1)"},
        {.name = "optimizer",
         .type = ARGS_STRING,
         .value = &q.optimizer,
         .meta = "NAME",
         .doc = "whose states are counted (AdamW)"},
        {.name = "compute",
         .type = ARGS_STRING,
         .value = &compute,
         .meta = "WHERE",
         .doc = "host: offload to cpu saves nothing; device: it does (host)"},
        {.name = "memory",
         .type = ARGS_BYTES,
         .value = &memory,
         .meta = "BYTES",
         .doc = "of a rank (40GiB): say what fits, and print the first of them ready to use"},
        {.name = "host-memory",
         .type = ARGS_BYTES,
         .value = &host_memory,
         .meta = "BYTES",
         .doc = "of a node, for what --compute device offloads to cpu (not limited)"},
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"},
    };
    const args_program program = {
        .usage = "estimate (FOLDER | --params N) [--world-size N] [--memory BYTES] [options]",
        .doc = "Bytes of parameters, gradients, optimizer states and buffers at every stage and "
               "offload choice, for the\nmodel in FOLDER: of what this version does as the engine "
               "would allocate them, of the rest by formula.\nActivations are not counted.",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .max_words = 1};
    args_words words;
    int code = args_parse(&program, argc, argv, &words);
    if (code != ARGS_GO)
        return code;
    q.on_host = strcmp(compute, "host") == 0;
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (options[i].given && (options[i].type == ARGS_COUNT || options[i].type == ARGS_BYTES) &&
            *(const int64_t *)options[i].value < 1)
            return args_wrong("--%s is at least 1", options[i].name);
    if ((words.count > 0) == (parameters > 0))
        return args_wrong("give a model folder or --params, one of them");
    if (strcmp(q.dtype, "bf16") != 0 && strcmp(q.dtype, "fp16") != 0 && is_half(&q))
        return args_wrong("--dtype is bf16, fp16 or fp32");
    if (!q.on_host && strcmp(compute, "device") != 0)
        return args_wrong("--compute is host or device");
    if (host_memory && (q.on_host || !memory))
        return args_wrong("--host-memory goes with --compute device and --memory");
    if (ranks < 1 || ranks > MOST_RANKS || per_node < 0 || per_node > ranks || q.accumulation < 1 ||
        q.accumulation > INT32_MAX)
        return args_wrong("--world-size is from 1 to %d, --ranks-per-node not above it, "
                          "--gradient-accumulation-steps at least 1",
                          MOST_RANKS);
    q.ranks = (double)ranks;
    q.per_node = (double)(per_node ? per_node : ranks);
    q.memory = (double)memory;
    q.host_memory = (double)host_memory;
    answer answers[PLANS];
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = parameters ? shapes_layers(parameters, &q.shapes, &error)
                                   : shapes_read(words.word[0], &q.shapes, &error);
    if (!status)
        status = answer_all(&q, answers, &error);
    code = status ? failed(&error, json) : print_all(&q, answers, json);
    zds_error_clear(&error);
    shapes_release(&q.shapes);
    return code;
}
