/* An optimizer that needs matrices whole: m = 0.9 m + g, w -= lr / k * m / max|m|, where k counts
 * the updates of the parameter. Everything else moves by -lr * g. Refuses what is not whole. */
#include <math.h>

#include "zds/plugin.h"

typedef struct options {
    double lr;
} options;

static const zds_option table[] = {{.name = "lr",
                                    .type = ZDS_OPTION_FLOAT,
                                    .offset = offsetof(options, lr),
                                    .default_value = "0.1",
                                    .min = 0,
                                    .max = INFINITY,
                                    .doc = "rate"}};

static zds_status create(const zds_host *host, const void *given, const zds_optim_env *env,
                         void **self)
{
    (void)given, (void)env;
    *self = (void *)(uintptr_t)host;
    return ZDS_OK;
}

static void destroy(void *self)
{
    (void)self;
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self;
    if (param->ndim < 2)
        return ZDS_OK;
    needs->whole_tensor = 1;
    needs->cost = (double)param->numel * (double)param->numel;
    zds_add_state(
        needs,
        &(zds_state_spec){.name = "m", .kind = ZDS_STATE_ELEMENT, .dtype = ZDS_F32, .initial = 0});
    zds_add_state(
        needs, &(zds_state_spec){.name = "k", .kind = ZDS_STATE_TENSOR, .bytes = sizeof(int64_t)});
    return ZDS_OK;
}

static float widen(const zds_tile *t, uint64_t i)
{
    if (t->grad_dtype == ZDS_F32)
        return ((const float *)t->grad)[i];
    union {
        uint32_t bits;
        float value;
    } u = {.bits = (uint32_t)((const uint16_t *)t->grad)[i] << 16};
    return u.value;
}

static void put(const zds_tile *t, uint64_t i, float value)
{
    union {
        float value;
        uint32_t bits;
    } u = {.value = value};
    ((float *)t->master)[i] = value;
    if (t->output)
        ((uint16_t *)t->output)[i] = (uint16_t)((u.bits + 0x7fff + (u.bits >> 16 & 1)) >> 16);
}

typedef struct job {
    const zds_tile *tile;
    float scale, by;
} job;

enum { BLOCK = 100 };

static void move(void *arg, size_t block)
{
    const job *j = arg;
    const zds_tile *t = j->tile;
    const float *m = t->states[0], *w = t->master;
    for (uint64_t i = block * BLOCK; i < t->count && i < (block + 1) * BLOCK; i++)
        put(t, i, w[i] - j->by * m[i]);
}

static zds_status step_whole(const zds_host *host, const zds_tile *t, double scale)
{
    if (t->first || t->count != t->param->numel)
        return host->fail(host, ZDS_ERR_PLUGIN, "%s came in pieces", t->param->name);
    float *m = t->states[0], most = 0;
    int64_t *k = t->states[1];
    for (uint64_t i = 0; i < t->count; i++) {
        m[i] = 0.9f * m[i] + (float)scale * widen(t, i);
        most = fabsf(m[i]) > most ? fabsf(m[i]) : most;
    }
    job j = {.tile = t, .by = (float)(t->hyper->lr / (double)++*k) / most};
    host->parallel_for(host, (t->count + BLOCK - 1) / BLOCK, move, &j);
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    for (size_t n = 0; n < tiles->count; n++) {
        const zds_tile *t = zds_tile_at(tiles, n);
        zds_status status = t->param->ndim > 1 ? step_whole(self, t, ctx->grad_scale) : ZDS_OK;
        if (status)
            return status;
        for (uint64_t i = 0; t->param->ndim < 2 && i < t->count; i++)
            put(t, i,
                ((float *)t->master)[i] -
                    (float)t->hyper->lr * (float)ctx->grad_scale * widen(t, i));
    }
    return ZDS_OK;
}

enum { FLOATS = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16) };
static const zds_optim_ops ops = {.struct_size = sizeof ops,
                                  .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                  .grad_dtypes = FLOATS,
                                  .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .output_dtypes = FLOATS,
                                  .create = create,
                                  .destroy = destroy,
                                  .describe = describe,
                                  .step = step};
static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_OPTIM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "Whole",
                                  .version = "1",
                                  .doc = "needs matrices whole",
                                  .options = table,
                                  .option_stride = sizeof table[0],
                                  .option_count = 1,
                                  .options_size = sizeof(options),
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);
