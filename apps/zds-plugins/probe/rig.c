/* An optimizer's instance with a small model: opening, placing, filling and comparing. */
#include "rig.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "numbers.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"
#include "plugin/needs.h"
#include "plugin/options.h"
#include "plugin/registry.h"

enum { RANDOM_MASTER = 1 << 20 };

static const struct {
    const char *name;
    int32_t role;
    uint32_t ndim;
} model[RIG_PARAMS] = {{"block.weight", ZDS_ROLE_MATRIX, 2},
                       {"embed.weight", ZDS_ROLE_EMBEDDING, 2},
                       {"norm.weight", ZDS_ROLE_NORM, 1},
                       {"block.bias", ZDS_ROLE_BIAS, 1},
                       {"scale", ZDS_ROLE_OTHER, 0}};

/* A small matrix is longer than a chunk, and a small bias shorter than a vector. A large matrix may
 * be one that the optimizer needs whole, so that a vector is as large. */
static const int64_t shapes[RIG_MODELS][RIG_PARAMS][2] = {
    [RIG_SMALL] = {{20, 56}, {12, 20}, {70, 1}, {13, 1}, {1, 1}},
    [RIG_LARGE] = {{20, RIG_TILE / 20 + 10}, {2, 3}, {3, 1}, {RIG_TILE + 77, 1}, {1, 1}},
    [RIG_EMPTY] = {{20, 0}, {0, 20}, {0, 1}, {0, 1}, {1, 1}}};

/* === setups === */

static const struct {
    zds_dtype master, grad, output, state;
    int32_t stochastic;
} types[] = {
    {ZDS_F32, ZDS_F32, ZDS_F32, ZDS_F32, 0},    {ZDS_F32, ZDS_BF16, ZDS_BF16, ZDS_F32, 0},
    {ZDS_F32, ZDS_F32, ZDS_BF16, ZDS_F32, 0},   {ZDS_F32, ZDS_F16, ZDS_F16, ZDS_F32, 0},
    {ZDS_F32, ZDS_F32, ZDS_F16, ZDS_F32, 0},    {ZDS_BF16, ZDS_BF16, ZDS_BF16, ZDS_F32, 0},
    {ZDS_F64, ZDS_F64, ZDS_F64, ZDS_F64, 0},    {ZDS_F32, ZDS_BF16, ZDS_BF16, ZDS_BF16, 0},
    {ZDS_F32, ZDS_BF16, ZDS_BF16, ZDS_BF16, 1},
};

bool rig_types(const bench *b, size_t i, rig_setup *setup)
{
    zds_optim_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        if (!(ops.master_dtypes & ZDS_DTYPE_BIT(types[t].master)) ||
            !(ops.grad_dtypes & ZDS_DTYPE_BIT(types[t].grad)) ||
            !(ops.output_dtypes & ZDS_DTYPE_BIT(types[t].output)) || i-- > 0)
            continue;
        *setup = (rig_setup){.master = types[t].master,
                             .grad = types[t].grad,
                             .output = types[t].output,
                             .state = types[t].state,
                             .stochastic = types[t].stochastic};
        return true;
    }
    return false;
}

const char *rig_types_text(const rig_setup *s)
{
    static char text[128];
    snprintf(text, sizeof text, "weights in %s, gradients in %s, output in %s%s%s",
             dtype_name(s->master), dtype_name(s->grad), dtype_name(s->output),
             s->state == ZDS_F32 ? "" : ", states asked for in bf16",
             s->stochastic ? ", rounded stochastically" : "");
    return text;
}

static char *each_type(bench *b, const cJSON *values, const char *label, size_t most, rig_body body)
{
    rig_setup setup;
    char *fault = NULL;
    for (size_t t = 0; !fault && t < most && rig_types(b, t, &setup); t++) {
        setup.values = values;
        bench_at("with %s, %s", label, rig_types_text(&setup));
        if (rig_accepts(b, &setup))
            fault = bench_within(body(b, &setup), "%s", bench_where);
    }
    return fault;
}

static char *each_option(bench *b, size_t types_of_defaults, size_t types_of_others, rig_body body)
{
    char *fault = NULL, *label;
    cJSON *values;
    for (size_t i = 0; !fault && (values = values_variant(b->plugin, i, &label)) != NULL; i++) {
        fault = each_type(b, values, label ? label : "?",
                          i == 0 ? types_of_defaults : types_of_others, body);
        cJSON_Delete(values);
        free(label);
    }
    return fault;
}

char *rig_each(bench *b, rig_body body)
{
    return each_option(b, SIZE_MAX, 2, body);
}

char *rig_each_once(bench *b, rig_body body)
{
    return each_option(b, SIZE_MAX, 1, body);
}

char *rig_each_option(bench *b, rig_body body)
{
    return each_option(b, 1, 1, body);
}

/* === opening === */

zds_optim_env rig_env(const rig_setup *s)
{
    uint64_t elements = 0;
    for (size_t i = 0; i < RIG_PARAMS; i++)
        elements += (uint64_t)(shapes[s->model][i][0] * shapes[s->model][i][1]);
    return (zds_optim_env){.struct_size = sizeof(zds_optim_env),
                           .space = ZDS_SPACE_HOST,
                           .master_dtype = s->master,
                           .grad_dtype = s->grad,
                           .output_dtype = s->output,
                           .has_output = s->output != s->master,
                           .state_dtype = s->state,
                           .stochastic_rounding = s->stochastic,
                           .world_size = s->world ? s->world : 1,
                           .rank = s->rank,
                           .sharded = s->world > 1 && !s->port,
                           .seed = 42,
                           .trainable_params = RIG_PARAMS,
                           .trainable_elements = elements};
}

zds_status rig_create(bench *b, const void *options, const zds_optim_env *env, void **self)
{
    zds_optim_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    *self = NULL;
    if (ops.create)
        return ops.create(&b->host, options, env, self);
    if (zds_dtype_size(env->state_dtype) < sizeof(float) || env->stochastic_rounding)
        return b->host.fail(&b->host, ZDS_ERR_UNSUPPORTED, "it has no create that could take this");
    return ZDS_OK;
}

void rig_destroy(const bench *b, void *self)
{
    zds_optim_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (self)
        ops.destroy(self);
}

bool rig_accepts(bench *b, const rig_setup *setup)
{
    char *fault = NULL;
    void *self = NULL, *options = values_options(b->plugin, setup->values, &fault);
    fault_free(fault);
    if (!options)
        return false;
    const zds_optim_env env = rig_env(setup);
    bench_clear(b);
    bool accepted = rig_create(b, options, &env, &self) == ZDS_OK;
    if (accepted)
        rig_destroy(b, self);
    options_destroy(options);
    return accepted;
}

/* The area of a GLOBAL state that an earlier parameter has described, or NULL. */
static area *global_area(const rig *r, const rig_param *until, const char *name)
{
    for (const rig_param *p = r->params; p < until; p++)
        for (uint32_t s = 0; s < p->needs.state_count; s++)
            if (p->needs.states[s].kind == ZDS_STATE_GLOBAL &&
                strcmp(p->needs.states[s].name, name) == 0)
                return p->states[s];
    return NULL;
}

static void place_state(rig *r, rig_param *p, uint32_t s)
{
    const zds_state_spec *spec = &p->needs.states[s];
    p->states[s] = spec->kind == ZDS_STATE_GLOBAL ? global_area(r, p, spec->name) : NULL;
    if (p->states[s])
        return;
    const size_t bytes = (size_t)hooked_state_bytes(spec, p->param.numel);
    /* What holds structs must stay aligned for them. */
    const bool tight = r->setup.tight && (spec->kind == ZDS_STATE_ELEMENT || bytes % 8 == 0);
    p->states[s] = area_make(bytes, tight, spec->name, p->param.name);
    for (uint64_t i = 0; spec->kind == ZDS_STATE_ELEMENT && i < p->param.numel; i++)
        number_write(p->states[s]->data, spec->dtype, i,
                     spec->starts == ZDS_STARTS_AS_PARAM
                         ? number_read(p->master->data, r->setup.master, i)
                         : spec->initial);
}

static void place_param(rig *r, rig_param *p)
{
    const rig_setup *s = &r->setup;
    const uint64_t n = p->param.numel;
    const size_t chunks = (size_t)(n + RIG_CHUNK - 1) / RIG_CHUNK;
    const char *name = p->param.name;
    p->master = area_make((size_t)n * zds_dtype_size(s->master), s->tight, "master", name);
    p->grad = area_make((size_t)n * zds_dtype_size(s->grad), s->tight, "gradient", name);
    const size_t output = s->output == s->master ? 0 : zds_dtype_size(s->output);
    p->output = area_make((size_t)n * output, s->tight, "output", name);
    p->chunks =
        area_make(p->needs.tensor_norms * chunks * sizeof(double), true, "chunk_sums", name);
    for (uint64_t i = 0; i < n; i++)
        number_write(p->master->data, s->master, i,
                     number_random(RANDOM_MASTER + p->param.index, i) / 2);
    for (uint32_t k = 0; k < p->needs.state_count; k++)
        place_state(r, p, k);
}

static void fill_param(rig *r, uint32_t i)
{
    rig_param *p = &r->params[i];
    zds_param *shown = (zds_param *)(void *)(r->shown->data + i * sizeof(rig_param));
    memcpy(p->shape, shapes[r->setup.model][i], sizeof p->shape);
    p->param = (zds_param){.struct_size = sizeof p->param,
                           .index = i,
                           .role = model[i].role,
                           .name = model[i].name,
                           .ndim = model[i].ndim,
                           .shape = p->shape,
                           .numel = (uint64_t)(p->shape[0] * p->shape[1]),
                           .width_mult = 1,
                           .fan_out_mult = 1};
    *shown = p->param;
    p->hyper = options_hyper(r->b->plugin, r->options);
}

/* The plugin writes into structs that are gone afterwards. */
static char *describe_param(rig *r, rig_param *p)
{
    rig_seat *seat = rig_begin_inputs(r, &r->seats[0]);
    zds_param_needs *needs = rig_input(seat, sizeof *needs);
    zds_hyper *hyper = rig_input(seat, sizeof *hyper);
    zds_state_spec *specs = rig_input(seat, sizeof p->specs);
    *hyper = p->hyper;
    memset(specs, 0, sizeof p->specs);
    const zds_param_needs asked = {.struct_size = sizeof asked,
                                   .states = specs,
                                   .state_stride = sizeof *specs,
                                   .hyper = hyper};
    *needs = asked;
    zds_status status = r->ops.describe(r->self, rig_shown(r, p), needs);
    if (status)
        return bench_failure(r->b, "describe", status);
    if (needs->struct_size != sizeof *needs || needs->hyper != hyper || needs->states != specs ||
        needs->state_stride != sizeof *specs)
        return fault_format("describe changed struct_size, state_stride or a pointer");
    memcpy(p->specs, specs, sizeof p->specs);
    p->needs = *needs;
    p->needs.states = p->specs;
    p->hyper = *hyper;
    p->needs.hyper = &p->hyper;
    char *fault = rig_needs_fault(r, p);
    for (uint32_t s = 0; s < p->needs.state_count && !fault; s++) /* names may be gone as well */
        p->needs.states[s].name = p->names[s] = strdup(p->needs.states[s].name);
    return fault;
}

const zds_param *rig_shown(const rig *r, const rig_param *p)
{
    return (const zds_param *)(const void *)(r->shown->data +
                                             (size_t)(p - r->params) * sizeof(rig_param));
}

static zds_status describe_model(rig *r)
{
    uint32_t at;
    r->model = zds_model_create();
    zds_status status = r->model ? zds_model_add_module(r->model, "model", &at) : ZDS_ERR_MEMORY;
    for (uint32_t i = 0; i < RIG_PARAMS && !status; i++) {
        rig_param *p = &r->params[i];
        const zds_param_desc desc = {.struct_size = sizeof desc,
                                     .name = p->param.name,
                                     .shape = p->shape,
                                     .ndim = p->param.ndim,
                                     .role = p->param.role};
        status = zds_model_add_param(r->model, 0, &desc, &at);
        r->runs[i] =
            (zero_param){.desc = p->param, .needs = p->needs, .hyper = i, .trainable = true};
        memcpy(r->runs[i].state_names, p->names, sizeof p->names);
    }
    return status;
}

static char *open_engine(rig *r)
{
    const rig_setup *s = &r->setup;
    hooked_arrays arrays[RIG_PARAMS];
    zds_error error = ZDS_ERROR_INIT;
    r->calls = rig_calls(&r->ops);
    r->me = r;
    hooked_setup setup = {.wish = {.param_dtype = s->output,
                                   .master_dtype = s->master,
                                   .accum_dtype = s->grad,
                                   .comm_dtype = ZERO_AS_IS,
                                   .seed = 42},
                          .params = r->runs,
                          .hypers = r->hypers,
                          .optim = &r->calls,
                          .optim_self = &r->me,
                          .rank = s->port ? s->rank : 0,
                          .world_size = s->port ? s->world : 1};
    zds_status status = describe_model(r);
    setup.model = r->model;
    if (!status)
        status = hooked_create(&setup, &r->engine, &error);
    char *fault = status ? fault_format("the engine could not be made: %s",
                                        error.text ? error.text : zds_status_name(status))
                         : NULL;
    zds_error_clear(&error);
    if (fault)
        return fault;
    rig_arrays(r, arrays);
    return rig_failure(r, hooked_prepare(r->engine, arrays));
}

char *rig_open(rig *r, bench *b, const rig_setup *setup)
{
    *r = (rig){.b = b, .setup = *setup, .grad_scale = 1};
    plugin_ops(b->plugin, &r->ops, sizeof r->ops);
    char *fault = NULL;
    r->options = values_options(b->plugin, setup->values, &fault);
    if (!r->options)
        return fault;
    r->shown = area_make(sizeof r->params, false, "zds_param", "");
    for (uint32_t i = 0; i < RIG_PARAMS; i++)
        fill_param(r, i);
    area_seal(r->shown, true);
    const size_t scratch = ((size_t)r->ops.scratch_bytes + 63) / 64 * 64;
    for (int t = 0; t < RIG_SEATS; t++) { /* here, where there is one thread: areas are listed */
        r->seats[t].scratch = area_make(scratch, true, "scratch", "");
        rig_begin_inputs(r, &r->seats[t]);
    }
    rig_seat *seat = rig_begin_inputs(r, &r->seats[0]);
    zds_optim_env *env = rig_input(seat, sizeof *env);
    *env = rig_env(setup);
    area_seal(seat->inputs, true);
    bench_clear(b);
    zds_status status = rig_create(b, r->options, env, &r->self);
    if (status)
        return bench_failure(b, "create", status);
    r->made = true;
    for (uint32_t i = 0; i < RIG_PARAMS && !fault; i++) {
        rig_param *p = &r->params[i];
        fault = bench_within(describe_param(r, p), "%s", p->param.name);
        if (!fault)
            place_param(r, p);
    }
    return fault ? fault : open_engine(r);
}

void rig_copy_states(rig *to, const rig *from, bool weights)
{
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        rig_param *p = &to->params[i];
        const rig_param *q = &from->params[i];
        if (weights)
            memcpy(p->master->data, q->master->data, p->master->bytes);
        for (uint32_t s = 0; s < p->needs.state_count; s++)
            if (p->states[s]->bytes)
                memcpy(p->states[s]->data, q->states[s]->data, p->states[s]->bytes);
    }
}

void rig_close(rig *r)
{
    hooked_destroy(r->engine);
    zds_model_destroy(r->model);
    if (r->made)
        rig_destroy(r->b, r->self);
    if (r->comm)
        r->comm_ops.finalize(r->comm);
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        rig_param *p = &r->params[i];
        area *mine[] = {p->master, p->grad, p->output, p->chunks};
        for (size_t k = 0; k < sizeof mine / sizeof *mine; k++)
            area_free(mine[k]);
        for (uint32_t s = 0; p->master && s < p->needs.state_count; s++)
            if (p->needs.states[s].kind != ZDS_STATE_GLOBAL ||
                !global_area(r, p, p->needs.states[s].name))
                area_free(p->states[s]);
    }
    for (size_t i = 0; i < RIG_PARAMS; i++)
        for (uint32_t s = 0; s < ZDS_MAX_STATES; s++)
            free(r->params[i].names[s]);
    for (size_t i = 0; i < r->retired_count; i++)
        area_free(r->retired[i]);
    for (int t = 0; t < RIG_SEATS; t++) {
        area_free(r->seats[t].scratch);
        area_free(r->seats[t].inputs);
    }
    area_free(r->shown);
    options_destroy(r->options);
}

/* === what a description may say === */

/* GLOBAL states are one for all parameters. */
static char *global_fault(const rig *r, const rig_param *p, const zds_state_spec *s)
{
    for (const rig_param *o = r->params; o < p; o++)
        for (uint32_t k = 0; k < o->needs.state_count; k++) {
            const zds_state_spec *t = &o->needs.states[k];
            if (strcmp(t->name, s->name) == 0 &&
                (t->kind == ZDS_STATE_GLOBAL || s->kind == ZDS_STATE_GLOBAL) &&
                (t->kind != s->kind || t->bytes != s->bytes))
                return fault_format(
                    "GLOBAL state \"%s\" is one for all parameters, but %s describes "
                    "it otherwise",
                    s->name, o->param.name);
        }
    return NULL;
}

char *rig_needs_fault(const rig *r, const rig_param *p)
{
    const zds_param_needs *n = &p->needs;
    const zds_hyper before = options_hyper(r->b->plugin, r->options);
    char *fault = needs_fault(&r->ops, n);
    if (!fault)
        fault = needs_hyper_fault(&before, &p->hyper);
    for (uint32_t s = 0; !fault && s < n->state_count; s++)
        fault = global_fault(r, p, &n->states[s]);
    return fault;
}

/* === gradients === */

/* Gradients of ranks that reach each other differ; what is not the optimizer's own to reduce comes
 * as their mean. */
static double gradient(const rig *r, uint64_t step, bool mean, size_t i, uint64_t e)
{
    enum { RANK_APART = 1 << 16 };
    if (!mean)
        return number_random(
            (step + (uint64_t)(r->setup.port ? r->setup.rank * RANK_APART : 0)) * RIG_PARAMS + i,
            e);
    double sum = 0;
    for (int32_t k = 0; k < r->setup.world; k++)
        sum += number_random((step + (uint64_t)(k * RANK_APART)) * RIG_PARAMS + i, e);
    return sum / r->setup.world;
}

void rig_fill(rig *r)
{
    static const double scales[] = {0.25, 2, 0.5, 4};
    const uint64_t step = r->setup.gradients + (r->setup.steady ? 0 : (uint64_t)r->step);
    const bool mean = r->setup.port && r->ops.reduction_mode &&
                      r->ops.reduction_mode(r->self, r->step + 1) == ZDS_REDUCE_MEAN;
    r->grad_scale = r->setup.scaled ? scales[r->step % 4] : 1;
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        rig_param *p = &r->params[i];
        area_seal(p->grad, false);
        for (uint64_t e = 0; e < p->param.numel; e++)
            number_write(p->grad->data, r->setup.grad, e,
                         gradient(r, step, mean, i, e) / r->grad_scale);
        area_seal(p->grad, true);
    }
}

char *rig_steps(rig *r, int count, const rig_cut *cut)
{
    char *fault = NULL;
    for (int i = 0; i < count && !fault; i++) {
        rig_fill(r);
        fault = rig_step(r, cut);
    }
    return fault;
}

/* === comparing === */

static bool same_spec(const zds_state_spec *a, const zds_state_spec *b)
{
    return strcmp(a->name, b->name) == 0 && a->kind == b->kind && a->dtype == b->dtype &&
           a->block == b->block && a->scope == b->scope && a->bytes == b->bytes &&
           a->version == b->version && a->starts == b->starts;
}

bool rig_same_kinds(const zds_param_needs *a, const zds_param_needs *b)
{
    bool same = a->state_count == b->state_count && a->granularity == b->granularity &&
                a->whole_tensor == b->whole_tensor && a->tensor_norms == b->tensor_norms &&
                a->eval_state == b->eval_state && number_same(a->cost, b->cost);
    for (uint32_t s = 0; same && s < a->state_count; s++)
        same = same_spec(&a->states[s], &b->states[s]);
    return same;
}

bool rig_same_needs(const zds_param_needs *a, const zds_param_needs *b)
{
    bool same = rig_same_kinds(a, b);
    for (uint32_t s = 0; same && s < a->state_count; s++)
        same = number_same(a->states[s].initial, b->states[s].initial);
    return same;
}

bool rig_same_hyper(const zds_hyper *a, const zds_hyper *b)
{
    return number_same(a->lr, b->lr) && number_same(a->beta1, b->beta1) &&
           number_same(a->beta2, b->beta2) && number_same(a->momentum, b->momentum) &&
           number_same(a->weight_decay, b->weight_decay) && number_same(a->beta3, b->beta3);
}

char *rig_guards(const rig *r)
{
    char *fault = NULL;
    for (size_t i = 0; i < RIG_PARAMS && !fault; i++) {
        const rig_param *p = &r->params[i];
        const area *all[] = {p->master, p->grad, p->output, p->chunks};
        for (size_t k = 0; k < sizeof all / sizeof *all && !fault; k++)
            fault = area_fault(all[k]);
        for (uint32_t s = 0; s < p->needs.state_count && !fault; s++)
            fault = area_fault(p->states[s]);
    }
    for (int t = 0; t < RIG_SEATS && !fault; t++)
        fault = area_fault(r->seats[t].scratch);
    return fault;
}

static double largest(const area *a, zds_dtype dtype, uint64_t n)
{
    double most = 0;
    for (uint64_t i = 0; i < n; i++)
        most = fmax(most, fabs(number_read(a->data, dtype, i)));
    return most;
}

static char *compare_numbers(const area *a, const area *b, zds_dtype dtype, double tolerance)
{
    const size_t size = zds_dtype_size(dtype);
    const uint64_t n = a->bytes / size;
    const double slack = tolerance > 0 ? tolerance * largest(a, dtype, n) : 0;
    for (uint64_t i = 0; i < n; i++) {
        if (memcmp(a->data + i * size, b->data + i * size, size) == 0)
            continue;
        double x = number_read(a->data, dtype, i), y = number_read(b->data, dtype, i);
        if ((isnan(x) && isnan(y)) || (tolerance > 0 && fabs(x - y) <= slack))
            continue;
        return fault_format("element %llu of the %s is %.9g, not %.9g", (unsigned long long)i,
                            a->what, y, x);
    }
    return NULL;
}

static char *compare_bytes(const area *a, const area *b)
{
    for (size_t i = 0; i < a->bytes; i++)
        if (a->data[i] != b->data[i])
            return fault_format("byte %zu of the %s differs", i, a->what);
    return NULL;
}

char *rig_compare(const rig *a, const rig *b, double tolerance)
{
    char *fault = NULL;
    for (size_t i = 0; i < RIG_PARAMS && !fault; i++) {
        const rig_param *p = &a->params[i], *q = &b->params[i];
        fault = compare_numbers(p->master, q->master, a->setup.master, tolerance);
        if (!fault && a->setup.output == b->setup.output)
            fault = compare_numbers(p->output, q->output, a->setup.output, tolerance);
        for (uint32_t s = 0; s < p->needs.state_count && !fault; s++) {
            const zds_state_spec *spec = &p->needs.states[s];
            if (spec->kind == ZDS_STATE_ELEMENT)
                fault = compare_numbers(p->states[s], q->states[s], spec->dtype, tolerance);
            else if (tolerance == 0)
                fault = compare_bytes(p->states[s], q->states[s]);
        }
    }
    return fault;
}
