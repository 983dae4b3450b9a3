/* What an optimizer may ask for besides: a state that starts as the parameter, weights to evaluate
 * with that are a state, a third beta. */
#include "../plugins/anchor.h"
#include "small_engine.h"

enum { MOST = 4096 };

static zds_status keep(void *user, uint32_t param, uint64_t first, uint64_t count,
                       const float *values)
{
    (void)param;
    memcpy((float *)user + first, values, count * sizeof *values);
    return ZDS_OK;
}

static const zds_plugin *const linked[] = {&anchor_plugin, NULL};

static zds_engine *open_engine(const char *json, int size)
{
    return small_open(json, size,
                      (zds_engine_options){.threads = 2,
                                           .optimizer = "Anchor",
                                           .optimizer_params = "{\"lr\": 0}",
                                           .plugins = where_plugins(linked)});
}

static void get(zds_engine *e, uint32_t param, const char *state, float *to)
{
    WORKS(zds_get_values(e, param, state, keep, to));
}

static void starts(int rank, int size)
{
    static const char *const more[] = {
        "", ", \"bf16\": {\"enabled\": true}",
        (", \"bf16\": {\"enabled\": true}, \"zds\": {\"param_groups\": [{\"params\": \"norm.*\", "
         "\"betas\": [0.5, 0.75, 0.125]}]}")};
    static float param[MOST], anchor[MOST], after[MOST], moved[MOST];
    for (int stage = 0; stage <= 3; stage++)
        for (int k = 0; k < 6; k++) {
            char json[500];
            snprintf(json, sizeof json,
                     "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": "
                     "%d%s}%s}",
                     stage, k % 2 ? ", \"offload_optimizer\": {\"device\": \"cpu\"}" : "",
                     more[k / 2]);
            zds_engine *e = open_engine(json, size);
            for (uint32_t p = 0; p < SMALL_PARAMS; p++) {
                const char *name = zds_eval_state(e, p);
                NEED(p == SMALL_FROZEN ? !name : strcmp(name, "anchor") == 0, "weights to keep");
                if (p == SMALL_FROZEN)
                    continue;
                get(e, p, NULL, param);
                get(e, p, name, anchor);
                NEED(rank || memcmp(param, anchor, sizeof param) == 0,
                     "stage %d: the anchor of %u does not start as the parameter", stage, p);
            }
            NEED(!zds_eval_state(e, SMALL_PARAMS), "no such parameter");
            get(e, 6, NULL, param);
            WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, 0, NULL));
            get(e, 6, NULL, after);
            get(e, 6, zds_eval_state(e, 6), moved);
            const float beta3 = k / 2 == 2 ? 0.125f : 0.25f;
            for (int i = 0; !rank && i < small_width; i++)
                NEED(after[i] == beta3 * param[i] &&
                         moved[i] == param[i] + 0.5f * (after[i] - param[i]),
                     "stage %d, %s: %g, %g from %g", stage, more[k / 2], after[i], moved[i],
                     param[i]);
            WORKS(zds_barrier(e));
            zds_engine_destroy(e);
        }
}

Test(engine_anchor, a_state_starts_as_the_parameter)
{
    run(1, true, starts);
    run(2, true, starts);
}

/* A file that the config names runs its code only where the program, or the user, says so. */
Test(engine_anchor, a_path_in_the_config_needs_trust)
{
    ON_HOST_ALONE("there is no device in it");
    static const char json[] =
        "{\"train_micro_batch_size_per_gpu\": 1, \"optimizer\": {\"type\": \"" TEST_BINARY_DIR
        "/tests/plugins/anchor.so\", \"params\": {}}}";
    for (int trusts = 0; trusts < 2; trusts++) {
        zds_error error = ZDS_ERROR_INIT;
        zds_config *config = NULL;
        zds_model *model = NULL;
        zds_engine *e = NULL;
        const zds_config_context context = {.struct_size = sizeof context,
                                            .world_size = 1,
                                            .check_plugins = true,
                                            .trust_plugins = trusts};
        const zds_engine_options o = {
            .struct_size = sizeof o, .threads = 1, .trust_config_plugins = trusts};
        where_search();
        unsetenv("ZDS_TRUST_PLUGINS");
        cr_assert_eq(zds_config_load(json, &context, &config, &error),
                     trusts ? ZDS_OK : ZDS_ERR_CONFIG, "%s", error.text);
        zds_config_destroy(config);
        zds_error_clear(&error);
        cr_assert_eq(zds_config_load(json, NULL, &config, &error), ZDS_OK, "%s", error.text);
        cr_assert_eq(small_model(&model), ZDS_OK);
        zds_status status = zds_engine_create(config, model, &o, &e, &error);
        cr_expect_eq(status, trusts ? ZDS_OK : ZDS_ERR_PLUGIN, "%s", error.text);
        cr_expect(trusts || strstr(error.text, "trust_config_plugins"), "%s", error.text);
        zds_engine_destroy(e);
        zds_error_clear(&error);
        zds_model_destroy(model);
        zds_config_destroy(config);
    }
}

/* === what is refused === */

static zds_param_needs asked; /* by the next describe */
static zds_state_spec first;

static zds_status ask(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    zds_add_state(needs, &first);
    needs->eval_state = asked.eval_state;
    for (uint32_t i = 1; i < asked.state_count; i++)
        zds_add_state(needs, &first);
    return ZDS_OK;
}

static void expect_refused(zds_state_spec spec, uint32_t count, uint32_t eval, const char *word)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = NULL;
    zds_engine *e = NULL;
    zds_optim_ops ops = anchor_ops;
    zds_plugin plugin = anchor_plugin;
    const zds_plugin *const list[] = {&plugin, NULL};
    const zds_config_context context = {.struct_size = sizeof context, .world_size = 1};
    const zds_engine_options o = {
        .struct_size = sizeof o, .threads = 1, .optimizer = "Anchor", .plugins = list};
    ops.describe = ask;
    plugin.ops = &ops;
    first = spec;
    asked = (zds_param_needs){.state_count = count, .eval_state = eval};
    where_search();
    cr_assert_eq(
        zds_config_load("{\"train_micro_batch_size_per_gpu\": 1}", &context, &config, &error),
        ZDS_OK);
    cr_assert_eq(small_model(&model), ZDS_OK);
    cr_expect_eq(zds_engine_create(config, model, &o, &e, &error), ZDS_ERR_PLUGIN, "%s", word);
    cr_expect(error.text && strstr(error.text, word), "no \"%s\" in \"%s\"", word, error.text);
    zds_error_clear(&error);
    zds_model_destroy(model);
    zds_config_destroy(config);
}

Test(engine_anchor, what_makes_no_sense_is_refused)
{
    ON_HOST_ALONE("describe is the same there");
    const zds_state_spec good = {.name = "anchor", .kind = ZDS_STATE_ELEMENT};
    zds_state_spec unknown = good, tensor = good, own = good;
    unknown.starts = 2;
    expect_refused(unknown, 1, 0, "starts as 2");
    tensor.kind = ZDS_STATE_TENSOR;
    tensor.bytes = 8;
    tensor.starts = ZDS_STARTS_AS_PARAM;
    expect_refused(tensor, 1, 0, "starts as 1");
    tensor.starts = ZDS_STARTS_AS_VALUE;
    expect_refused(tensor, 1, 1, "eval_state is 1");
    expect_refused(good, 1, 2, "eval_state is 2");
    own.scope = ZDS_SCOPE_RANK_LOCAL;
    expect_refused(own, 1, 1, "eval_state is 1");
    expect_refused(good, ZDS_MAX_STATES + 1, 0, "9 states");
}
