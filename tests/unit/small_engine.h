/* Engines of the small model, in ranks that are processes: what goes wrong ends the rank. */
#ifndef TESTS_UNIT_SMALL_ENGINE_H
#define TESTS_UNIT_SMALL_ENGINE_H

#include "engine_world.h"
#include "small_model.h"

#define WORKS(call) NEED(!(call), "%s: %s", #call, zds_engine_error(e))

/* A call is refused, in these words. */
#define TOLD(e, call, wanted, word)                                                                \
    do {                                                                                           \
        zds_status got_ = (call);                                                                  \
        NEED(got_ == (wanted), "%s: %s, not %s", #call, zds_status_name(got_),                     \
             zds_status_name(wanted));                                                             \
        NEED(strstr(zds_engine_error(e), word), "%s: no \"%s\" in \"%s\"", #call, word,            \
             zds_engine_error(e));                                                                 \
    } while (0)

/* What engines are made of. */
static zds_status (*small_make)(zds_model **out) = small_model;

/* It stays as long as the process. */
static inline zds_config *small_load(const char *json, int size)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = size};
    NEED(!zds_config_load(where_config(json), &context, &config, &error), "%s", error.text);
    return config;
}

/* The options' struct_size is set here. */
static inline zds_status small_try_open(const char *json, int size, zds_engine_options o,
                                        zds_engine **e, zds_error *error)
{
    zds_model *model = NULL;
    const zds_config *config = small_load(json, size);
    o.struct_size = sizeof o;
    NEED(!small_make(&model), "model");
    zds_status status = zds_engine_create(config, model, &o, e, error);
    zds_model_destroy(model);
    return status;
}

/* One that has its values. */
static inline zds_engine *small_open(const char *json, int size, zds_engine_options o)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_engine *e = NULL;
    NEED(!small_try_open(json, size, o, &e, &error), "%s: %s", json, error.text);
    WORKS(zds_set_values(e, small_values, NULL));
    return e;
}

static inline void small_end(zds_engine *e)
{
    WORKS(zds_barrier(e));
    zds_engine_destroy(e);
}

/* Of the trained values and their states, on rank 0, where they are finite. */
static inline uint64_t small_bits(zds_engine *e)
{
    small_sum sum;
    WORKS(small_hash(e, &sum));
    NEED(zds_rank(e) || sum.finite, "not finite");
    return sum.hash;
}

/* For zds_get_values: each value is near that of the array. */
static inline zds_status small_is_near(void *wanted, uint32_t param, uint64_t first, uint64_t count,
                                       const float *values)
{
    const float *want = (const float *)wanted + first;
    (void)param;
    for (uint64_t i = 0; i < count; i++)
        NEED(fabsf(values[i] - want[i]) < 2e-6f, "element %llu: %g, not %g",
             (unsigned long long)(first + i), (double)values[i], (double)want[i]);
    return ZDS_OK;
}

#endif
