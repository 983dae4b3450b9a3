/* zds-replay: golden gradients through the engine, so that an optimizer, a schedule or a ZeRO stage
 * can be held against another implementation of it, value by value. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/args.h"
#include "common/exits.h"
#include "common/fail.h"
#include "common/files.h"
#include "common/floats.h"
#include "common/metrics.h"
#include "common/output.h"
#include "common/rank.h"
#include "common/safetensors.h"
#include "zds/zds.h"

enum { PIECE = 4096, ABOUT_LIMIT = 1 << 24 };

typedef struct replay {
    const char *config_path, *params_path, *grads_path, *out_path, *metrics_path, *observe_path;
    int64_t micro_steps, threads, steps;
    double *observed; /* [observed_count] */
    size_t observed_count;
    zds_config *config;
    zds_engine *engine;
    safetensors *params, *grads; /* grads: of the micro step in progress */
    safetensors_writer *writer;  /* rank 0 */
    const char *about_path;
    cJSON *about;           /* what describes parameters beside their shapes; or NULL */
    const cJSON **about_of; /* [parameters]: its entry, or NULL */
    cJSON *metrics;
    FILE *metrics_file; /* of rank 0, under a temporary name until all is done */
    char metrics_temporary[PATH_MAX], *metrics_target;
    zds_error error;
} replay;

static zds_status read_about(replay *r)
{
    size_t size = 0;
    char *text = NULL;
    if (!r->about_path)
        return ZDS_OK;
    zds_status status = file_read(r->about_path, ABOUT_LIMIT, &text, &size, &r->error);
    if (status)
        return status;
    r->about = cJSON_ParseWithLength(text, size);
    free(text);
    return cJSON_IsObject(r->about)
               ? ZDS_OK
               : fail(&r->error, ZDS_ERR_FORMAT, "%s: not a JSON object", r->about_path);
}

/* Role and width multipliers of one parameter, as the file says them. */
static zds_status apply_about(replay *r, const cJSON *entry, zds_param_desc *desc)
{
    static const char *const roles[] = {"other", "matrix", "bias", "norm", "embedding", "head"};
    const cJSON *item;
    cJSON_ArrayForEach(item, entry)
    {
        int32_t role = 0;
        while (role < 6 && !(cJSON_IsString(item) && strcmp(item->valuestring, roles[role]) == 0))
            role++;
        if (strcmp(item->string, "role") == 0 && role < 6)
            desc->role = role;
        else if (strcmp(item->string, "width_mult") == 0 && item->valuedouble > 0)
            desc->width_mult = item->valuedouble;
        else if (strcmp(item->string, "fan_out_mult") == 0 && item->valuedouble > 0)
            desc->fan_out_mult = item->valuedouble;
        else
            return fail(&r->error, ZDS_ERR_FORMAT,
                        "%s: %s.%s: write role (other, matrix, bias, norm, embedding, head), or "
                        "the numbers width_mult and fan_out_mult, above 0",
                        r->about_path, desc->name, item->string);
    }
    return ZDS_OK;
}

static zds_status match_about(replay *r)
{
    r->about_of = calloc(safetensors_count(r->params) + 1, sizeof *r->about_of);
    if (!r->about_of)
        return fail(&r->error, ZDS_ERR_MEMORY, "no memory for the parameters");
    for (const cJSON *entry = r->about ? r->about->child : NULL; entry; entry = entry->next) {
        const safetensors_tensor *t = safetensors_find(r->params, entry->string);
        if (!t)
            return fail(&r->error, ZDS_ERR_NOT_FOUND, "%s: %s: %s has no such parameter",
                        r->about_path, entry->string, r->params_path);
        r->about_of[t - safetensors_at(r->params, 0)] = entry;
    }
    return ZDS_OK;
}

/* Gradients that no step would use are not dropped in silence. */
static zds_status check_micro_steps(replay *r)
{
    int64_t each = zds_accumulation_steps(r->engine);
    if (!zds_config_bool(r->config, "managed_gradient_accumulation") || r->micro_steps % each == 0)
        return ZDS_OK;
    return fail(&r->error, ZDS_ERR_INVALID,
                "--micro-steps %lld is no multiple of gradient_accumulation_steps, %lld: the last "
                "gradients would be in no step",
                (long long)r->micro_steps, (long long)each);
}

/* A module a tensor: each is reduced by itself, in the reverse order of names. */
static zds_status describe(replay *r, zds_model *model)
{
    for (size_t i = 0; i < safetensors_count(r->params); i++) {
        const safetensors_tensor *t = safetensors_at(r->params, i);
        uint32_t module;
        zds_param_desc desc = {.struct_size = sizeof desc,
                               .name = t->name,
                               .shape = t->shape,
                               .ndim = t->ndim,
                               .role = t->ndim > 1 ? ZDS_ROLE_MATRIX : ZDS_ROLE_OTHER};
        zds_status status = apply_about(r, r->about_of[i], &desc);
        if (status)
            return status;
        status = zds_model_add_module(model, t->name, &module);
        if (!status)
            status = zds_model_add_param(model, module, &desc, NULL);
        if (status)
            return fail(&r->error, status, "%s: %s", r->params_path, zds_model_error(model));
    }
    return ZDS_OK;
}

static zds_status read_value(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    replay *r = user;
    return safetensors_read(safetensors_at(r->params, param), first, count, out, &r->error);
}

static zds_status open_engine(replay *r)
{
    zds_config_context context = {.struct_size = sizeof context};
    zds_status status = safetensors_open(r->params_path, &r->params, &r->error);
    if (!status)
        status = read_about(r);
    if (status)
        return status;
    status = zds_config_load(r->config_path, &context, &r->config, &r->error);
    if (!r->config)
        return status;
    status = match_about(r);
    if (status)
        return status;
    zds_model *model = zds_model_create();
    status =
        model ? describe(r, model) : fail(&r->error, ZDS_ERR_MEMORY, "no memory for the model");
    zds_engine_options options = {
        .struct_size = sizeof options, .threads = (int32_t)r->threads, .optimizer = "AdamW"};
    if (!status) /* tells the config's problems, too */
        status = zds_engine_create(r->config, model, &options, &r->engine, &r->error);
    zds_model_destroy(model);
    if (!status && (status = zds_set_values(r->engine, read_value, r)) != ZDS_OK && !r->error.text)
        fail(&r->error, status, "%s", zds_engine_error(r->engine));
    return status;
}

/* What backward leaves for a parameter of type T: T(fp32(loss_scale / gas) * g), added to what is
 * there where the engine says so. */
static void add_value(const zds_slot *slot, float g, void *to)
{
    uint16_t *half = to;
    float *whole = to;
    if (slot->dtype == ZDS_F32) {
        *whole = slot->accumulate ? *whole + g : g;
    } else if (slot->dtype == ZDS_BF16) {
        g = float_from_bf16(bf16_from_float(g));
        *half = bf16_from_float(slot->accumulate ? float_from_bf16(*half) + g : g);
    } else {
        g = float_from_f16(f16_from_float(g));
        *half = f16_from_float(slot->accumulate ? float_from_f16(*half) + g : g);
    }
}

static zds_status put(replay *r, const zds_slot *slot, const safetensors_tensor *from)
{
    float values[PIECE], written[PIECE], scale = (float)zds_loss_scale(r->engine);
    size_t size = zds_dtype_size(slot->dtype);
    for (uint64_t i = 0; i < slot->count; i += PIECE) {
        uint64_t n = slot->count - i < PIECE ? slot->count - i : PIECE;
        char *to = (char *)slot->grad + i * size;
        zds_status status = safetensors_read(from, i, n, values, &r->error);
        if (status)
            return status;
        if (slot->accumulate)
            status = zds_copy_out(r->engine, written, to, n * size);
        for (uint64_t k = 0; k < n; k++)
            add_value(slot, scale * values[k], (char *)written + k * size);
        if (!status)
            status = zds_copy_in(r->engine, to, written, n * size);
        if (status)
            return fail(&r->error, status, "%s", zds_engine_error(r->engine));
    }
    return ZDS_OK;
}

static bool same_shape(const safetensors_tensor *a, const safetensors_tensor *b)
{
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, a->ndim * sizeof *a->shape) == 0;
}

static zds_status backward(replay *r, uint32_t module)
{
    const safetensors_tensor *param = safetensors_at(r->params, module);
    const safetensors_tensor *grad = safetensors_find(r->grads, param->name);
    zds_view view;
    if (grad && !same_shape(grad, param))
        return fail(&r->error, ZDS_ERR_FORMAT,
                    "%s: the gradient of %s has another shape than the parameter in %s", grad->file,
                    param->name, r->params_path);
    zds_status status = zds_acquire(r->engine, module, ZDS_BACKWARD, NULL, &view);
    if (!status && !grad)
        status = zds_grad_none(r->engine, module, 0);
    else if (!status && (status = put(r, &view.slots[0], grad)) != ZDS_OK)
        return status;
    if (!status)
        status = zds_grad_ready(r->engine, module, NULL);
    return status ? fail(&r->error, status, "%s", zds_engine_error(r->engine)) : ZDS_OK;
}

static void add_metrics(replay *r, const zds_step_result *s)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddNumberToObject(row, "lr", s->lr);
    if (isfinite(s->grad_norm))
        cJSON_AddNumberToObject(row, "grad_norm", s->grad_norm);
    else
        cJSON_AddNullToObject(row, "grad_norm");
    cJSON_AddNumberToObject(row, "loss_scale", s->loss_scale);
    cJSON_AddBoolToObject(row, "skipped", s->skipped);
    cJSON_AddItemToArray(r->metrics, row);
}

/* What the schedule sees after an optimizer step. */
static zds_status observe(replay *r)
{
    size_t k = (size_t)r->steps++;
    if (k >= r->observed_count || isnan(r->observed[k]))
        return ZDS_OK;
    zds_status status = zds_observe(r->engine, r->observed[k]);
    return status ? fail(&r->error, status, "%s", zds_engine_error(r->engine)) : ZDS_OK;
}

static zds_status micro_step(replay *r, int64_t k)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/m%03lld.r%d.safetensors", r->grads_path, (long long)k,
             zds_rank(r->engine));
    zds_status status = safetensors_open(path, &r->grads, &r->error);
    if (status)
        return status;
    for (size_t i = 0; !status && i < safetensors_count(r->grads); i++) {
        const char *name = safetensors_at(r->grads, i)->name;
        if (!safetensors_find(r->params, name))
            status = fail(&r->error, ZDS_ERR_FORMAT, "%s: a gradient of %s, which %s does not have",
                          path, name, r->params_path);
    }
    int32_t boundary = zds_config_bool(r->config, "managed_gradient_accumulation")
                           ? ZDS_BOUNDARY_AUTO
                           : ZDS_BOUNDARY_YES;
    zds_step_result result = {.struct_size = sizeof result};
    if (!status && (status = zds_micro_begin(r->engine, boundary)) != ZDS_OK)
        fail(&r->error, status, "%s", zds_engine_error(r->engine));
    for (size_t m = safetensors_count(r->params); !status && m-- > 0;)
        status = backward(r, (uint32_t)m);
    if (!status && (status = zds_step(r->engine, &result)) != ZDS_OK)
        fail(&r->error, status, "micro step %lld: %s", (long long)k, zds_engine_error(r->engine));
    if (!status && (result.applied || result.skipped)) {
        add_metrics(r, &result);
        status = observe(r);
    }
    safetensors_close(r->grads);
    r->grads = NULL;
    return status;
}

static zds_status write_value(void *user, uint32_t param, uint64_t first, uint64_t count,
                              const float *values)
{
    (void)param, (void)first; /* pieces come in the order of the file */
    replay *r = user;
    return safetensors_write(r->writer, values, count, &r->error);
}

/* What OUT holds: param.NAME of every parameter, then STATE.NAME; in its metadata
 * version.STATE.NAME of states that have a version. */
typedef struct listing {
    size_t count, note_count;
    safetensors_entry *entries;
    safetensors_note *notes;
} listing;

static void listing_free(listing *l)
{
    for (size_t i = 0; i < l->count; i++)
        free((char *)l->entries[i].name);
    for (size_t i = 0; i < l->note_count; i++) {
        free((char *)l->notes[i].key);
        free((char *)l->notes[i].value);
    }
    free(l->entries);
    free(l->notes);
}

static bool list_entry(listing *l, const safetensors_tensor *t, const char *state, uint32_t version)
{
    safetensors_entry *entry = &l->entries[l->count];
    char *name, *key, *value;
    if (asprintf(&name, "%s.%s", state, t->name) < 0)
        return false;
    *entry = (safetensors_entry){.name = name, .dtype = ZDS_F32, .ndim = t->ndim};
    memcpy(entry->shape, t->shape, sizeof t->shape);
    l->count++;
    if (!version)
        return true;
    if (asprintf(&key, "version.%s", name) < 0)
        return false;
    if (asprintf(&value, "%u", version) < 0) {
        free(key);
        return false;
    }
    l->notes[l->note_count++] = (safetensors_note){key, value};
    return true;
}

static zds_status list_entries(replay *r, listing *l)
{
    size_t params = safetensors_count(r->params), room = params;
    for (size_t p = 0; p < params; p++)
        for (uint32_t s = 0; zds_state_name(r->engine, (uint32_t)p, s); s++)
            room++;
    l->entries = calloc(room + 1, sizeof *l->entries);
    l->notes = calloc(room + 1, sizeof *l->notes);
    bool whole = l->entries && l->notes;
    for (size_t p = 0; whole && p < params; p++) {
        const safetensors_tensor *t = safetensors_at(r->params, p);
        const char *state;
        whole = list_entry(l, t, "param", 0);
        for (uint32_t s = 0; whole && (state = zds_state_name(r->engine, (uint32_t)p, s)); s++)
            whole = list_entry(l, t, state, zds_state_version(r->engine, (uint32_t)p, s));
    }
    return whole ? ZDS_OK : fail(&r->error, ZDS_ERR_MEMORY, "no memory to write the result");
}

static zds_status write_all(replay *r)
{
    for (size_t p = 0; p < safetensors_count(r->params); p++) {
        const char *state = NULL;
        uint32_t s = 0;
        do {
            zds_status status = zds_get_values(r->engine, (uint32_t)p, state, write_value, r);
            if (status)
                return r->error.text ? status
                                     : fail(&r->error, status, "%s", zds_engine_error(r->engine));
            state = zds_state_name(r->engine, (uint32_t)p, s++);
        } while (state);
    }
    return ZDS_OK;
}

static zds_status write_out(replay *r)
{
    listing l = {0};
    zds_status status = list_entries(r, &l);
    if (!status && zds_rank(r->engine) == 0)
        status =
            safetensors_create(r->out_path, l.entries, l.count, l.notes, &r->writer, &r->error);
    if (!status)
        status = write_all(r);
    listing_free(&l);
    return status;
}

/* === metrics, whole or not at all === */

static zds_status metrics_failed(replay *r)
{
    return fail(&r->error, ZDS_ERR_IO, "%s: cannot be written: %s", r->metrics_path,
                strerror(errno));
}

/* Before all work. */
static zds_status open_metrics(replay *r)
{
    if (!r->metrics_path || zds_rank(r->engine) != 0)
        return ZDS_OK;
    zds_status status = file_target(r->metrics_path, &r->metrics_target, &r->error);
    if (status)
        return status;
    snprintf(r->metrics_temporary, sizeof r->metrics_temporary, "%s.tmp.%d", r->metrics_target,
             (int)getpid());
    r->metrics_file = fopen(r->metrics_temporary, "we");
    return r->metrics_file ? ZDS_OK : metrics_failed(r);
}

static zds_status fill_metrics(replay *r)
{
    char *text = cJSON_Print(r->metrics);
    FILE *f = r->metrics_file;
    bool good = text && fprintf(f, "%s\n", text) > 0 && fflush(f) == 0 && fsync(fileno(f)) == 0;
    free(text);
    return good ? ZDS_OK : metrics_failed(r);
}

/* Both files get their names when both are complete. */
static zds_status finish(replay *r)
{
    if (r->observed_count > (size_t)r->steps)
        return fail(&r->error, ZDS_ERR_INVALID, "%s: has %zu metrics, but there were %lld steps",
                    r->observe_path, r->observed_count, (long long)r->steps);
    zds_status status = write_out(r);
    if (!status && r->metrics_file)
        status = fill_metrics(r);
    if (!status && r->writer)
        status = safetensors_commit(r->writer, &r->error);
    if (!status && r->metrics_file && rename(r->metrics_temporary, r->metrics_target) != 0)
        status = metrics_failed(r);
    return status;
}

static zds_status check_observed(replay *r)
{
    if (r->observed && !zds_observes(r->engine))
        return fail(&r->error, ZDS_ERR_INVALID, "--observe: the schedule of %s follows no metric",
                    r->config_path);
    return ZDS_OK;
}

static int run(replay *r)
{
    r->metrics = cJSON_CreateArray();
    zds_status status =
        r->observe_path ? metrics_read(r->observe_path, &r->observed, &r->observed_count, &r->error)
                        : ZDS_OK;
    if (!status)
        status = open_engine(r);
    if (!status)
        status = check_micro_steps(r);
    if (!status)
        status = check_observed(r);
    if (!status)
        status = open_metrics(r);
    for (int64_t k = 0; !status && k < r->micro_steps; k++)
        status = micro_step(r, k);
    if (!status)
        status = finish(r);
    if (r->metrics_file)
        fclose(r->metrics_file);
    if (status && r->metrics_file)
        unlink(r->metrics_temporary);
    safetensors_destroy(r->writer);
    r->error.status = fail_tell(r->engine, status, &r->error);
    int code = status ? rank_failed(&r->error) : EXIT_DONE;
    zds_engine_destroy(r->engine);
    zds_config_destroy(r->config);
    safetensors_close(r->params);
    cJSON_Delete(r->metrics);
    free(r->observed);
    cJSON_Delete(r->about);
    free(r->about_of);
    free(r->metrics_target);
    return code;
}

int main(int argc, char **argv)
{
    replay r = {.micro_steps = -1};
    args_option options[] = {
        {.name = "config",
         .type = ARGS_STRING,
         .value = &r.config_path,
         .meta = "DS",
         .doc = "the ds_config"},
        {.name = "params",
         .type = ARGS_STRING,
         .value = &r.params_path,
         .meta = "INIT.safetensors",
         .doc = "initial parameters"},
        {.name = "grads",
         .type = ARGS_STRING,
         .value = &r.grads_path,
         .meta = "DIR",
         .doc = "gradients: DIR/mKKK.rR.safetensors for micro step KKK (from 000) and rank R; a "
                "parameter that is absent has none"},
        {.name = "micro-steps",
         .type = ARGS_COUNT,
         .value = &r.micro_steps,
         .meta = "N",
         .doc = "how many micro steps"},
        {.name = "out",
         .type = ARGS_STRING,
         .value = &r.out_path,
         .meta = "OUT.safetensors",
         .doc = "gets param.NAME (the fp32 master where there is one) and STATE.NAME, all F32"},
        {.name = "metrics",
         .type = ARGS_STRING,
         .value = &r.metrics_path,
         .meta = "M.json",
         .doc = "gets an array: lr, grad_norm, loss_scale, skipped of each optimizer step"},
        {.name = "observe",
         .type = ARGS_STRING,
         .value = &r.observe_path,
         .meta = "FILE",
         .doc = "what a schedule that follows a metric gets after each optimizer step: a JSON "
                "array of numbers and nulls"},
        {.name = "about",
         .type = ARGS_STRING,
         .value = &r.about_path,
         .meta = "A.json",
         .doc = "what optimizers may ask: {NAME: {role, width_mult, fan_out_mult}}; role is matrix "
                "(with more than one dimension) or other where this says nothing"},
        {.name = "threads",
         .type = ARGS_COUNT,
         .value = &r.threads,
         .meta = "T",
         .doc = "threads of each rank (default: its cores)"},
        ARGS_TRUST_PLUGINS};
    const args_program program = {
        .usage = "--config DS --params INIT --grads DIR --micro-steps N --out OUT [--metrics M]",
        .doc = "Runs recorded gradients through the engine and writes parameters and optimizer "
               "states. Several ranks: "
               "under zds-run.",
        .options = options,
        .option_count = sizeof options / sizeof *options};
    int code = args_parse(&program, argc, argv, NULL);
    if (code != ARGS_GO)
        return code;
    if (!r.config_path || !r.params_path || !r.grads_path || !r.out_path || r.micro_steps < 0)
        return args_wrong("--config, --params, --grads, --micro-steps and --out must be given");
    exits_watch();
    return exits_done(run(&r));
}
