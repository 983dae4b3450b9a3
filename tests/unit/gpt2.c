/* The model against transformers (data/gpt2, made by make.py in float64), its kernels against plain
 * C, and what no golden file can say: dropout, 16-bit gradients, threads, generation. */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/floats.h"
#include "zds-train/gpt2.h"
#include "zds-train/params.h"

/* === helpers === */

static void run_serial(void *context, size_t n, void (*body)(void *arg, size_t i), void *arg)
{
    (void)context;
    for (size_t i = n; i-- > 0;) /* the order must not matter */
        body(arg, i);
}

typedef struct crowd {
    void (*body)(void *arg, size_t i);
    void *arg;
    atomic_size_t next;
    size_t n;
} crowd;

static void *work(void *context)
{
    crowd *c = context;
    for (size_t i; (i = atomic_fetch_add(&c->next, 1)) < c->n;)
        c->body(c->arg, i);
    return NULL;
}

static void run_threads(void *context, size_t n, void (*body)(void *arg, size_t i), void *arg)
{
    (void)context;
    crowd c = {.body = body, .arg = arg, .n = n};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, work, &c), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}

static const workers serial = {run_serial, NULL, 1}, threads = {run_threads, NULL, 3};

typedef struct net {
    gpt2_config config;
    params params;
    gpt2 *model;
    float **values; /* (params) */
    void **grads;
    zds_dtype grad_dtype;
    uint32_t *tokens;
    size_t batch, length;
} net;

static net net_create(const gpt2_config *config, size_t batch, size_t length, workers crew,
                      zds_dtype grad_dtype)
{
    net n = {.config = *config, .batch = batch, .length = length, .grad_dtype = grad_dtype};
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(params_create(config, &n.params, &error), ZDS_OK, "%s", error.text);
    cr_assert_eq(gpt2_create(config, batch, length, crew, kernels_best(), &n.model, &error), ZDS_OK,
                 "%s", error.text);
    n.values = calloc(n.params.count, sizeof *n.values);
    n.grads = calloc(n.params.count, sizeof *n.grads);
    for (size_t i = 0; i < n.params.count; i++) {
        size_t count = (size_t)param_elements(&n.params.list[i]);
        n.values[i] = calloc(count, sizeof(float));
        n.grads[i] = malloc(count * zds_dtype_size(grad_dtype));
        memset(n.grads[i], 0xff, count * zds_dtype_size(grad_dtype)); /* NaN: must be overwritten */
    }
    n.tokens = calloc(batch * (length + 1), sizeof *n.tokens);
    return n;
}

static void net_destroy(net *n)
{
    for (size_t i = 0; i < n->params.count; i++) {
        free(n->values[i]);
        free(n->grads[i]);
    }
    free(n->values);
    free(n->grads);
    free(n->tokens);
    gpt2_destroy(n->model);
    params_destroy(&n->params);
}

/* Random weights (all of them, biases and norms too) and tokens. */
static void net_fill(net *n, uint64_t seed)
{
    for (size_t i = 0; i < n->params.count; i++) {
        random_stream stream = {{(uint32_t)seed, 1}, {(uint32_t)i, 2, 3}};
        size_t count = (size_t)param_elements(&n->params.list[i]);
        kernels_plain.normals(&stream, 0, count, 0.1f, n->values[i]);
        if (n->params.list[i].constant == 1)
            for (size_t k = 0; k < count; k++)
                n->values[i][k] += 1;
    }
    for (size_t i = 0; i < n->batch * (n->length + 1); i++) {
        uint32_t number[4];
        random_block(&(random_stream){{(uint32_t)seed, 7}, {0}}, (uint32_t)i, number);
        n->tokens[i] = number[0] % (uint32_t)n->config.vocab_size;
    }
}

static gradient grad_of(const net *n, size_t i, bool accumulate)
{
    return (gradient){n->grads[i], n->grad_dtype, accumulate};
}

static size_t head_index(const net *n)
{
    return n->params.tied ? (size_t)WTE : n->params.count - 1;
}

static size_t norm_index(const net *n)
{
    return FIRST_BLOCK_PARAM + BLOCK_PARAMS * (size_t)n->params.layers;
}

static void net_body(net *n)
{
    gpt2_embed(n->model, (table){n->values[WTE], ZDS_F32}, (table){n->values[WPE], ZDS_F32});
    for (size_t l = 0; l < (size_t)n->params.layers; l++)
        gpt2_block(n->model, l,
                   (const float *const *)n->values + FIRST_BLOCK_PARAM + BLOCK_PARAMS * l);
}

static double net_forward(net *n)
{
    gpt2_batch batch = {n->tokens, 5, 3, 4};
    size_t norm = norm_index(n);
    gpt2_begin(n->model, &batch);
    net_body(n);
    return gpt2_head(n->model, n->values[norm], n->values[norm + 1],
                     (table){n->values[head_index(n)], ZDS_F32});
}

static void net_backward(net *n, double scale)
{
    size_t norm = norm_index(n), head = head_index(n);
    gpt2_head_backward(n->model, n->values[norm], n->values[norm + 1],
                       (table){n->values[head], ZDS_F32}, scale, grad_of(n, norm, false),
                       grad_of(n, norm + 1, false), grad_of(n, head, false));
    for (size_t l = (size_t)n->params.layers; l-- > 0;) {
        gradient dw[BLOCK_PARAMS];
        size_t first = FIRST_BLOCK_PARAM + BLOCK_PARAMS * l;
        for (size_t i = 0; i < BLOCK_PARAMS; i++)
            dw[i] = grad_of(n, first + i, false);
        gpt2_block_backward(n->model, l, (const float *const *)n->values + first, dw);
    }
    gpt2_embed_backward(n->model, grad_of(n, WTE, n->params.tied), grad_of(n, WPE, false));
    cr_assert_eq(gpt2_status(n->model), ZDS_OK);
}

/* === against transformers === */

static void check_golden(const char *name, workers crew)
{
    char path[512];
    gpt2_config config;
    safetensors *file;
    zds_error error = ZDS_ERROR_INIT;
    snprintf(path, sizeof path, "%s/gpt2/%s.json", TEST_DATA, name);
    cr_assert_eq(gpt2_config_read(path, &config, &error), ZDS_OK, "%s", error.text);
    snprintf(path, sizeof path, "%s/gpt2/%s.safetensors", TEST_DATA, name);
    cr_assert_eq(safetensors_open(path, &file, &error), ZDS_OK, "%s", error.text);
    const safetensors_tensor *t = safetensors_find(file, "tokens");
    net n = net_create(&config, (size_t)t->shape[0], (size_t)t->shape[1] - 1, crew, ZDS_F32);
    memcpy(n.tokens, t->data, t->bytes);
    for (size_t i = 0; i < n.params.count; i++) {
        t = safetensors_find(file, n.params.list[i].name);
        cr_assert(t, "%s", n.params.list[i].name);
        cr_assert_eq(safetensors_read(t, 0, t->count, n.values[i], &error), ZDS_OK);
    }
    float expected;
    safetensors_read(safetensors_find(file, "loss"), 0, 1, &expected, &error);
    double loss = net_forward(&n);
    cr_expect(fabs(loss - (double)expected) < 2e-6 * (double)expected, "%s: loss %.8f, not %.8f",
              name, loss, (double)expected);
    const double scale = 2.5;
    net_backward(&n, scale);
    for (size_t i = 0; i < n.params.count; i++) {
        char key[128];
        snprintf(key, sizeof key, "grad.%s", n.params.list[i].name);
        t = safetensors_find(file, key);
        float *want = malloc(t->bytes), *got = n.grads[i];
        safetensors_read(t, 0, t->count, want, &error);
        double size = 0, off = 0;
        for (size_t k = 0; k < t->count; k++) {
            size = fmax(size, fabs((double)want[k]));
            off = fmax(off, fabs((double)got[k] / scale - (double)want[k]));
        }
        cr_expect(off <= 2e-5 * size + 2e-7, "%s: %s: off by %g of %g", name, key, off, size);
        free(want);
    }
    float *scores = malloc((size_t)config.vocab_size * sizeof *scores);
    float *last = malloc((size_t)config.vocab_size * sizeof *last);
    safetensors_read(safetensors_find(file, "last_scores"), 0, (uint64_t)config.vocab_size, last,
                     &error);
    size_t cuts[] = {0, 1, 2, n.length - 1, n.length}; /* the sequence in four calls */
    for (int c = 0; c < 4; c++) {
        gpt2_begin_generation(n.model, n.tokens, cuts[c], cuts[c + 1]);
        net_body(&n);
        gpt2_scores(n.model, n.values[norm_index(&n)], n.values[norm_index(&n) + 1],
                    (table){n.values[head_index(&n)], ZDS_F32}, scores);
    }
    for (size_t k = 0; k < (size_t)config.vocab_size; k++)
        cr_expect(fabsf(scores[k] - last[k]) < 2e-5f * (1 + fabsf(last[k])),
                  "%s: score %zu is %g, not %g", name, k, (double)scores[k], (double)last[k]);
    free(scores);
    free(last);
    net_destroy(&n);
    safetensors_close(file);
    gpt2_config_clear(&config);
}

Test(gpt2, golden)
{
    static const char *const names[] = {"tied", "untied", "gelu", "relu", "silu", "tanh", "pieces"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_golden(names[i], serial);
        check_golden(names[i], threads);
    }
}

/* === what no golden file says === */

static const gpt2_config wide = {.vocab_size = 300,
                                 .n_positions = 70,
                                 .n_embd = 160,
                                 .n_layer = 2,
                                 .n_head = 2,
                                 .n_inner = 512,
                                 .layer_norm_epsilon = 1e-5,
                                 .scale_attn_weights = true,
                                 .tie_word_embeddings = true};

/* The slope of the loss along its own gradient g must be |g|: (f(w + e g) - f(w - e g)) / 2e =
 * |g|^2. Masks of dropout are the same in all passes. */
static void check_slope(gpt2_config config)
{
    net n = net_create(&config, 4, 70, serial, ZDS_F32);
    net_fill(&n, 11);
    net_forward(&n);
    net_backward(&n, 1);
    double square = 0, loss[2];
    for (size_t i = 0; i < n.params.count; i++)
        for (size_t k = 0; k < param_elements(&n.params.list[i]); k++)
            square += pow((double)((float *)n.grads[i])[k], 2);
    const float step = (float)(2e-2 / sqrt(square));
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n.params.count; i++)
            for (size_t k = 0; k < param_elements(&n.params.list[i]); k++)
                n.values[i][k] += (side ? -2 : 1) * step * ((float *)n.grads[i])[k];
        loss[side] = net_forward(&n);
    }
    double slope = (loss[0] - loss[1]) / (2 * (double)step);
    cr_expect(fabs(slope - square) < 3e-3 * square, "slope %g, gradient %g", slope, square);
    net_destroy(&n);
}

Test(gpt2, slope)
{
    gpt2_config config = wide;
    check_slope(config);
    config.attn_pdrop = 0.3;
    check_slope(config);
    config.resid_pdrop = 0.2;
    check_slope(config);
    config.embd_pdrop = 0.1;
    check_slope(config);
}

Test(gpt2, same_bits_on_any_number_of_threads)
{
    gpt2_config config = wide;
    config.resid_pdrop = config.attn_pdrop = config.embd_pdrop = 0.1;
    net a = net_create(&config, 4, 70, serial, ZDS_F32);
    net b = net_create(&config, 4, 70, threads, ZDS_F32);
    net_fill(&a, 12);
    net_fill(&b, 12);
    cr_expect_eq(net_forward(&a), net_forward(&b));
    net_backward(&a, 1);
    net_backward(&b, 1);
    for (size_t i = 0; i < a.params.count; i++)
        cr_expect_eq(memcmp(a.grads[i], b.grads[i], param_elements(&a.params.list[i]) * 4), 0, "%s",
                     a.params.list[i].name);
    net_destroy(&a);
    net_destroy(&b);
}

/* Gradients in 16 bits are the fp32 ones, rounded; wte's is the sum of two that are. */
static void check_half(zds_dtype dtype, float (*from)(uint16_t), uint16_t (*to)(float), float worst)
{
    net a = net_create(&wide, 2, 70, serial, ZDS_F32);
    net b = net_create(&wide, 2, 70, serial, dtype);
    net_fill(&a, 13);
    net_fill(&b, 13);
    net_forward(&a);
    net_forward(&b);
    net_backward(&a, 8);
    net_backward(&b, 8);
    for (size_t i = 0; i < a.params.count; i++) {
        const float *want = a.grads[i];
        const uint16_t *got = b.grads[i];
        size_t off = 0;
        for (size_t k = 0; k < param_elements(&a.params.list[i]); k++) {
            off += i == WTE ? !(fabsf(from(got[k]) - want[k]) <= worst * fabsf(want[k]) + 1e-3f)
                            : got[k] != to(want[k]);
        }
        cr_expect_eq(off, 0, "%s: %zu elements are off", a.params.list[i].name, off);
    }
    net_destroy(&a);
    net_destroy(&b);
}

Test(gpt2, gradients_in_16_bits)
{
    check_half(ZDS_BF16, float_from_bf16, bf16_from_float, 8e-3f);
    check_half(ZDS_F16, float_from_f16, f16_from_float, 1e-3f);
}

/* === kernels === */

static size_t variants(const kernels *out[3])
{
    size_t n = 0;
    out[n++] = &kernels_plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        out[n++] = &kernels_avx2;
    if (kernels_best() == &kernels_avx512)
        out[n++] = &kernels_avx512;
#endif
    return n;
}

/* Philox4x32-10 of the Random123 distribution's known-answer file. */
Test(kernels, philox)
{
    uint32_t out[4];
    random_block(&(random_stream){{0, 0}, {0, 0, 0}}, 0, out);
    cr_expect(out[0] == 0x6627e8d5 && out[1] == 0xe169c58d && out[2] == 0xbc57ac4c &&
              out[3] == 0x9b00dbd8);
    random_block(&(random_stream){{0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff, 0xffffffff}},
                 0xffffffff, out);
    cr_expect(out[0] == 0x408f276d && out[1] == 0x41c83b0e && out[2] == 0xa20bc7c6 &&
              out[3] == 0x6d5451fd);
    random_block(&(random_stream){{0xa4093822, 0x299f31d0}, {0x85a308d3, 0x13198a2e, 0x03707344}},
                 0x243f6a88, out);
    cr_expect(out[0] == 0xd16cfe09 && out[1] == 0x94fdcceb && out[2] == 0x5001e420 &&
              out[3] == 0x24126ea1);
}

/* Every half, at every length of a row. */
Test(kernels, halves)
{
    enum { N = 1 << 16 };
    const kernels *k[3];
    size_t count = variants(k);
    static uint16_t all[N], sums[N];
    static float wide_[N], extra[N];
    for (size_t i = 0; i < N; i++) {
        all[i] = (uint16_t)i;
        extra[i] = ldexpf((float)(i * 2654435761u % 4001) - 2000, (int)(i % 37) - 24);
    }
    for (size_t v = 0; v < count; v++)
        for (int kind = 0; kind < 2; kind++) {
            zds_dtype dtype = kind ? ZDS_F16 : ZDS_BF16;
            float (*from)(uint16_t) = kind ? float_from_f16 : float_from_bf16;
            uint16_t (*to)(float) = kind ? f16_from_float : bf16_from_float;
            for (size_t at = 0, n = 1; at < N; at += n, n = n % 67 + 1) {
                n = at + n > N ? N - at : n;
                k[v]->from_half(dtype, n, all + at, wide_ + at);
                memcpy(sums + at, all + at, n * sizeof *all);
                k[v]->to_half(dtype, n, extra + at, true, sums + at);
            }
            for (size_t i = 0; i < N; i++) {
                float want = from(all[i]), sum = from(to(want + extra[i])), is = from(sums[i]);
                cr_assert(wide_[i] == want || (isnan(want) && isnan(wide_[i])), "%s: %zx",
                          k[v]->name, i);
                cr_assert(is == sum || (isnan(sum) && isnan(is)), "%s: %zx", k[v]->name, i);
            }
            k[v]->to_half(dtype, N, extra, false, sums);
            for (size_t i = 0; i < N; i++)
                cr_assert_eq(sums[i], to(extra[i]), "%s: %g", k[v]->name, (double)extra[i]);
        }
}

/* Any cut and any variant gives the same random numbers; their moments are right. */
Test(kernels, random_numbers)
{
    enum { N = 200000 };
    const kernels *k[3];
    size_t count = variants(k);
    float *all = malloc(N * sizeof *all), *part = malloc(N * sizeof *part);
    random_stream stream = {{1, 2}, {3, 4, 5}};
    for (int kind = 0; kind < 2; kind++) {
        double sum = 0, square = 0;
        if (kind)
            k[0]->normals(&stream, 0, N, 2, all);
        else
            k[0]->dropout_mask(&stream, 0, N, 0.25, all);
        for (size_t v = 0; v < count; v++)
            for (size_t at = 0, n = 1; at < N; at += n, n = n * 3 % 1009 + 1) {
                n = at + n > N ? N - at : n;
                if (kind)
                    k[v]->normals(&stream, at, n, 2, part + at);
                else
                    k[v]->dropout_mask(&stream, at, n, 0.25, part + at);
                for (size_t i = at; i < at + n; i++)
                    cr_assert(fabsf(part[i] - all[i]) <= (kind ? 2e-5f : 0),
                              "%s: element %zu is %g, not %g", k[v]->name, i, (double)part[i],
                              (double)all[i]);
            }
        for (size_t i = 0; i < N; i++) {
            sum += (double)all[i];
            square += (double)all[i] * (double)all[i];
        }
        /* mask: mean 1, square 4/3; normals with deviation 2: mean 0, square 4 */
        cr_expect(fabs(sum / N - (kind ? 0 : 1)) < 0.02, "mean %g", sum / N);
        cr_expect(fabs(square / N - (kind ? 4 : 4.0 / 3)) < 0.05, "square %g", square / N);
    }
    free(all);
    free(part);
}

/* Each activation and its slope against libm, at ordinary and extreme points. */
Test(kernels, activations)
{
    const kernels *k[3];
    size_t count = variants(k);
    static const float points[] = {-100, -20, -5, -1.7f, -1e-3f, -0.0f, 1e-6f, 0.3f, 2, 6, 30, 90};
    enum { N = sizeof points / sizeof *points };
    for (size_t v = 0; v < count; v++)
        for (int kind = ACTIVATION_GELU_NEW; kind <= ACTIVATION_TANH; kind++) {
            float bias[N] = {0}, h[N], y[N], g[N], sums[N];
            memcpy(h, points, sizeof h);
            for (int i = 0; i < N; i++)
                g[i] = 1;
            k[v]->activate((activation)kind, 1, N, h, N, bias, y, N);
            k[v]->activate_backward((activation)kind, 1, N, h, N, bias, g, N, sums);
            for (int i = 0; i < N; i++) {
                double x = (double)points[i], c = sqrt(2 / M_PI), f = 0, slope = 0;
                double t = tanh(c * (x + 0.044715 * x * x * x)), s = 1 / (1 + exp(-x));
                switch (kind) {
                case ACTIVATION_GELU_NEW:
                    f = 0.5 * x * (1 + t);
                    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
                    break;
                case ACTIVATION_GELU:
                    f = x * 0.5 * erfc(-x * M_SQRT1_2);
                    slope = 0.5 * erfc(-x * M_SQRT1_2) + x * exp(-x * x / 2) / sqrt(2 * M_PI);
                    break;
                case ACTIVATION_RELU:
                    f = x > 0 ? x : 0;
                    slope = x > 0;
                    break;
                case ACTIVATION_SILU:
                    f = x * s;
                    slope = s + x * s * (1 - s);
                    break;
                case ACTIVATION_TANH:
                    f = tanh(x);
                    slope = 1 - f * f;
                    break;
                }
                double near = 1e-6 * (1 + fabs(x));
                cr_expect(fabs((double)y[i] - f) < near, "%s: f%d(%g) is %g, not %g", k[v]->name,
                          kind, x, (double)y[i], f);
                cr_expect_eq(y[i], g[i]);
                cr_expect(fabs((double)h[i] - slope) < 2 * near, "%s: slope %d of %g is %g, not %g",
                          k[v]->name, kind, x, (double)h[i], slope);
                cr_expect_eq(sums[i], h[i]);
            }
        }
}

/* Softmax, its parts and its gradient against double precision; a NaN is never hidden. */
Test(kernels, softmax)
{
    const kernels *k[3];
    size_t count = variants(k);
    for (size_t v = 0; v < count; v++)
        for (size_t n = 1; n < 40; n++) {
            float s[48], p[48], e[48], dp[48], ds[48];
            double sum = 0, dot = 0;
            for (size_t i = 0; i < 48; i++) {
                s[i] = p[i] = e[i] = sinf((float)(i * n)) * 20;
                dp[i] = cosf((float)i);
            }
            for (size_t i = 0; i < n; i++)
                sum += exp((double)s[i]);
            float lse = k[v]->softmax(n, 48, p);
            k[v]->exponentials(n, 48, lse, e);
            cr_expect(fabs((double)lse - log(sum)) < 4e-6, "%s", k[v]->name);
            cr_expect(fabs((double)k[v]->sum_exp(n, s, lse) - 1) < 4e-6);
            for (size_t i = 0; i < 48; i++) {
                double want = i < n ? exp((double)s[i]) / sum : 0;
                dot += want * (double)dp[i];
                cr_expect(fabs((double)p[i] - want) < 1e-6 && fabs((double)e[i] - want) < 4e-6,
                          "%s: %zu of %zu is %g and %g, not %g", k[v]->name, i, n, (double)p[i],
                          (double)e[i], want);
            }
            k[v]->softmax_backward(48, p, dp, ds);
            for (size_t i = 0; i < 48; i++)
                cr_expect(fabs((double)ds[i] - (double)p[i] * ((double)dp[i] - dot)) < 4e-6);
            s[n / 2] = NAN;
            cr_expect(isnan(k[v]->softmax(n, 48, s)), "%s: a NaN among %zu is lost", k[v]->name, n);
        }
}

/* Every variant writes what the plain one does, for sizes around the width of vectors. */
Test(kernels, variants_agree)
{
    const kernels *k[3];
    size_t count = variants(k);
    for (size_t v = 1; v < count; v++)
        for (size_t d = 1; d < 40; d++) {
            float x[3 * 40], w[40], b[40], y[2][3 * 40], stats[2][6], dy[2][3 * 40], sums[2][80];
            for (size_t i = 0; i < 3 * d; i++) {
                x[i] = sinf((float)(i + d));
                dy[0][i] = dy[1][i] = cosf((float)(3 * i));
                w[i % 40] = 1 + 0.1f * (float)(i % 40);
                b[i % 40] = 0.01f * (float)(i % 40);
            }
            const kernels *both[2] = {k[0], k[v]};
            for (int side = 0; side < 2; side++) {
                both[side]->norm_forward(3, d, x, w, b, 1e-5f, y[side], stats[side]);
                both[side]->norm_backward(3, d, dy[side], x, w, stats[side], x, y[side],
                                          sums[side]);
                both[side]->transpose(3, d, y[side], d, dy[side], 3);
            }
            for (size_t i = 0; i < 3 * d; i++) {
                cr_expect(fabsf(y[0][i] - y[1][i]) < 1e-4f * (1 + fabsf(y[0][i])), "%s d %zu",
                          k[v]->name, d);
                cr_expect_eq(dy[1][i], y[1][i % 3 * d + i / 3]);
            }
            for (size_t i = 0; i < 2 * d; i++)
                cr_expect(fabsf(sums[0][i] - sums[1][i]) < 1e-4f * (1 + fabsf(sums[0][i])));
        }
}
