/* Muon against its formula in double precision, written as in the paper: wide, tall and square
 * matrices, filters, batches, small and large; which parameters get Adam; rates; gradients that are
 * not finite; the order of tasks. */
#include "optim_harness.h"

typedef struct matrix {
    size_t rows, cols;
    double *at;
} matrix;

static matrix make(size_t rows, size_t cols)
{
    return (matrix){rows, cols, calloc(rows * cols, sizeof(double))};
}

/* x * y, or x * y^T. */
static matrix times(const matrix *x, const matrix *y, bool transposed)
{
    matrix z = make(x->rows, transposed ? y->rows : y->cols);
    for (size_t i = 0; i < z.rows; i++)
        for (size_t k = 0; k < x->cols; k++)
            for (size_t j = 0; !transposed && j < z.cols; j++)
                z.at[i * z.cols + j] += x->at[i * x->cols + k] * y->at[k * y->cols + j];
    for (size_t i = 0; transposed && i < z.rows; i++)
        for (size_t j = 0; j < z.cols; j++) {
            double sum = 0;
            for (size_t k = 0; k < x->cols; k++)
                sum += x->at[i * x->cols + k] * y->at[j * y->cols + k];
            z.at[i * z.cols + j] = sum;
        }
    return z;
}

static matrix transpose(const matrix *x)
{
    matrix y = make(x->cols, x->rows);
    for (size_t i = 0; i < x->rows; i++)
        for (size_t j = 0; j < x->cols; j++)
            y.at[j * y.cols + i] = x->at[i * x->cols + j];
    return y;
}

/* X <- a X + (b A + c A A) X with A = X X^T, five times, from X / |X|; the shorter side first. */
static void newton_schulz(double *values, size_t rows, size_t cols)
{
    matrix given = {rows, cols, values};
    bool turned = rows > cols;
    matrix x = turned ? transpose(&given) : make(rows, cols);
    if (!turned)
        memcpy(x.at, values, rows * cols * sizeof *values);
    double norm = 0;
    for (size_t i = 0; i < rows * cols; i++)
        norm += x.at[i] * x.at[i];
    for (size_t i = 0; i < rows * cols; i++)
        x.at[i] /= sqrt(norm) + 1e-7;
    for (int step = 0; step < 5; step++) {
        matrix r = times(&x, &x, true), square = times(&r, &r, false);
        for (size_t i = 0; i < r.rows * r.cols; i++)
            r.at[i] = -4.7750 * r.at[i] + 2.0315 * square.at[i];
        matrix moved = times(&r, &x, false);
        for (size_t i = 0; i < rows * cols; i++)
            x.at[i] = 3.4445 * x.at[i] + moved.at[i];
        free(r.at);
        free(square.at);
        free(moved.at);
    }
    matrix back = turned ? transpose(&x) : x;
    memcpy(values, back.at, rows * cols * sizeof *values);
    free(x.at);
    if (turned)
        free(back.at);
}

typedef struct muon_case {
    int64_t shape[4];
    uint32_t ndim;
    size_t matrices, rows, cols; /* that are made orthogonal */
    double lift;                 /* sqrt(rows / columns) of the last two extents, if above 1 */
    int steps;
} muon_case;

static const muon_case cases[] = {
    {{24, 70}, 2, 1, 24, 70, 1, 4},
    {{70, 24}, 2, 1, 70, 24, 1.7078251276599330, 4}, /* sqrt(70 / 24) */
    {{33, 33}, 2, 1, 33, 33, 1, 3},
    {{3, 11, 20}, 3, 3, 11, 20, 1, 3},
    {{2, 21, 9}, 3, 2, 21, 9, 1.5275252316519468, 3},   /* sqrt(21 / 9) */
    {{6, 4, 3, 2}, 4, 1, 6, 24, 1.2247448713915890, 3}, /* sqrt(3 / 2) */
    {{1, 9}, 2, 1, 1, 9, 1, 2},
    {{200, 260}, 2, 1, 200, 260, 1, 1},
    {{260, 200}, 2, 1, 260, 200, 1.1401754250991380, 1}, /* sqrt(1.3) */
};

static uint64_t numel(const muon_case *c)
{
    return c->matrices * c->rows * c->cols;
}

static optim_setup setup_of(const muon_case *c, const char *options)
{
    return (optim_setup){.file = "optim_muon",
                         .name = "Muon",
                         .options = options,
                         .count = numel(c),
                         .shape = c->shape,
                         .ndim = c->ndim,
                         .param = "block.weight"};
}

static void step_whole(optim *o)
{
    optim_begin(o);
    void *states[ZDS_MAX_STATES];
    zds_tile tile = optim_tile(o, 0, o->setup.count, states);
    zds_tiles tiles = {sizeof tiles, 1, sizeof tile, &tile};
    zds_step_ctx ctx = optim_context(o);
    cr_assert_eq(o->ops->step(o->self, &tiles, &ctx), ZDS_OK, "%s", o->h.error);
}

static double follow(const muon_case *c, const char *options, double lr, double beta, double decay)
{
    optim o;
    optim_setup setup = setup_of(c, options);
    uint64_t n = numel(c);
    double worst = 0, *p = calloc(n, sizeof *p), *m = calloc(n, sizeof *m),
           *x = calloc(n, sizeof *x);
    optim_open(&o, &setup);
    cr_assert(o.needs.whole_tensor && o.needs.leads && o.needs.cost > 0);
    o.grad_scale = 0.5;
    for (uint64_t i = 0; i < n; i++)
        p[i] = optim_weight(&o, i);
    for (int step = 0; step < c->steps; step++) {
        optim_random_grad(&o, (uint64_t)step);
        for (uint64_t i = 0; i < n; i++) {
            double g = 0.5 * read_at(o.grad.data, ZDS_F32, i);
            m[i] += (1 - beta) * (g - m[i]);
            x[i] = g + beta * (m[i] - g);
        }
        for (size_t k = 0; k < c->matrices; k++)
            newton_schulz(x + k * c->rows * c->cols, c->rows, c->cols);
        for (uint64_t i = 0; i < n; i++)
            p[i] = p[i] * (1 - lr * decay) - lr * c->lift * x[i];
        step_whole(&o);
    }
    for (uint64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs(optim_weight(&o, i) - p[i]));
        cr_assert(fabs(optim_state(&o, "momentum_buffer", i) - m[i]) < 1e-6);
    }
    optim_close(&o);
    free(p);
    free(m);
    free(x);
    return worst;
}

Test(optim_muon, is_the_iteration_of_the_paper)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double gram = follow(&cases[i], "{\"lr\": 0.1}", 0.1, 0.95, 0);
        double standard = follow(&cases[i],
                                 "{\"lr\": 5, \"muon_lr\": 0.1, \"ns_method\": \"standard\", "
                                 "\"momentum\": 0.8, \"weight_decay\": 0.3}",
                                 0.1, 0.8, 0.3);
        cr_log_info("case %zu: %g and %g", i, gram, standard);
        cr_expect(gram < 2e-6 && standard < 2e-6, "case %zu: %g and %g", i, gram, standard);
    }
}

/* Rates of Adam's half, what is taken for it, and its formula. */
Test(optim_muon, the_rest_gets_adam)
{
    static const int64_t square[] = {8, 8};
    static const struct {
        const char *param, *options;
        uint32_t ndim;
        double lr, decay;
        bool l2;
    } rows[] = {{"bias", "{}", 1, 3e-4, 0, false},
                {"Tok_EMBEDding.weight", "{\"lr\": 0.01}", 2, 0.01, 0, false},
                {"x.lm_head.weight", "{\"lr\": 0.01, \"adam_lr\": 0.02, \"weight_decay\": 0.1}", 2,
                 0.02, 0.1, false},
                {"norm", "{\"adam_lr\": 0.05, \"adam_w_mode\": false, \"weight_decay\": 0.1}", 1,
                 0.05, 0.1, true}};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        optim o;
        optim_setup setup = {.file = "optim_muon",
                             .name = "Muon",
                             .options = rows[k].options,
                             .count = 64,
                             .param = rows[k].param,
                             .shape = rows[k].ndim > 1 ? square : NULL,
                             .ndim = rows[k].ndim};
        optim_open(&o, &setup);
        cr_assert(!o.needs.whole_tensor && !o.needs.leads);
        cr_assert_eq(o.hyper.lr, rows[k].lr);
        double p[64], m[64] = {0}, v[64] = {0};
        for (uint64_t i = 0; i < 64; i++)
            p[i] = optim_weight(&o, i);
        for (int step = 1; step <= 3; step++) {
            optim_random_grad(&o, (uint64_t)step);
            for (uint64_t i = 0; i < 64; i++) {
                double g = read_at(o.grad.data, ZDS_F32, i);
                if (rows[k].l2)
                    g += rows[k].decay * p[i];
                else
                    p[i] -= rows[k].lr * rows[k].decay * p[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                p[i] -= rows[k].lr * m[i] / (1 - pow(0.9, step)) /
                        (sqrt(v[i] / (1 - pow(0.95, step))) + 1e-10);
            }
            step_whole(&o);
        }
        for (uint64_t i = 0; i < 64; i++)
            cr_assert(fabs(optim_weight(&o, i) - p[i]) < 1e-6, "%s", rows[k].param);
        optim_close(&o);
    }
}

/* A group's own rate holds for both halves. */
Test(optim_muon, a_groups_rate_wins)
{
    optim o;
    optim_setup setup = setup_of(&cases[0], "{\"lr\": 0.1, \"muon_lr\": 0.2}");
    optim_open(&o, &setup);
    cr_assert_eq(o.hyper.lr, 0.2);
    static const double own[] = {0.7, 0.1, 0.2}; /* the common one and the half's among them */
    for (int i = 0; i < 3; i++) {
        o.hyper.lr = own[i];
        o.param.group_sets = ZDS_SCHED_LR;
        cr_assert_eq(o.ops->describe(o.self, &o.param, &o.needs), ZDS_OK);
        cr_assert_eq(o.hyper.lr, own[i]);
    }
    optim_close(&o);
}

Test(optim_muon, what_is_not_finite_stays_out_of_the_momentum)
{
    optim o;
    optim_setup setup = setup_of(&cases[0], "{\"lr\": 0.1}");
    optim_open(&o, &setup);
    optim_random_grad(&o, 1);
    step_whole(&o);
    double p = optim_weight(&o, 5), m = optim_state(&o, "momentum_buffer", 5),
           there = optim_state(&o, "momentum_buffer", 9);
    optim_random_grad(&o, 2);
    double g = read_at(o.grad.data, ZDS_F32, 5);
    write_at(o.grad.data, ZDS_F32, 9, (double)INFINITY);
    step_whole(&o);
    cr_assert_eq(optim_state(&o, "momentum_buffer", 5), m);
    cr_assert_eq(optim_state(&o, "momentum_buffer", 9), there);
    cr_assert(!isfinite(optim_weight(&o, 9)));
    cr_assert(fabs(optim_weight(&o, 5) - (p - 0.1 * (g + 0.95 * (m - g)))) < 1e-6);
    optim_close(&o);
}

static void backwards(const zds_host *host, size_t n, void (*body)(void *, size_t), void *arg)
{
    (void)host;
    while (n--)
        body(arg, n);
}

Test(optim_muon, the_order_of_tasks_changes_no_bit)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        optim o[2];
        optim_setup setup = setup_of(&cases[i], "{\"lr\": 0.1}");
        for (int k = 0; k < 2; k++) {
            optim_open(&o[k], &setup);
            if (k)
                o[k].h.host.parallel_for = backwards;
            optim_random_grad(&o[k], 3);
            step_whole(&o[k]);
        }
        cr_expect_eq(memcmp(o[0].master.data, o[1].master.data, numel(&cases[i]) * sizeof(float)),
                     0);
        optim_close(&o[0]);
        optim_close(&o[1]);
    }
}

Test(optim_muon, per_head_is_refused)
{
    optim o;
    optim_setup setup = setup_of(&cases[0], "{\"per_head_muon\": true}");
    cr_assert_eq(optim_try(&o, &setup), ZDS_ERR_UNSUPPORTED);
    cr_assert_not_null(strstr(o.h.error, "per_head_muon"));
    optim_close(&o);
}

/* The weights and momenta of two steps, added. */
static void two_steps(const optim_setup *s, double *weights, double *momenta)
{
    optim o;
    optim_open(&o, s);
    *weights = *momenta = 0;
    for (uint64_t i = 0; i < s->count; i++)
        write_at(o.master.data, s->master, i, 1);
    for (uint64_t step = 0; step < 2; step++) {
        uint64_t seed = 5 + step;
        for (uint64_t i = 0; i < s->count; i++)
            write_at(o.grad.data, s->grad, i,
                     round_dtype(0.3 + 0.01 * random_normal(&seed), ZDS_BF16));
        step_whole(&o);
    }
    for (uint64_t i = 0; i < s->count; i++) {
        *weights += optim_weight(&o, i);
        *momenta += optim_state(&o, "momentum_buffer", i);
    }
    optim_close(&o);
}

/* Steps far below what bfloat16 tells apart add up to those of fp32, on average; to nearest they
 * would be lost. */
Test(optim_muon, random_rounding_is_unbiased)
{
    static const int64_t shape[] = {150, 400};
    optim_setup exact = {.file = "optim_muon",
                         .name = "Muon",
                         .options = "{\"lr\": 0.05}",
                         .count = 60000,
                         .shape = shape,
                         .ndim = 2,
                         .param = "block.weight"};
    optim_setup random = exact;
    random.master = random.grad = random.output = random.state = ZDS_BF16;
    random.stochastic = true;
    double weights, momenta, expected_weights, expected_momenta;
    two_steps(&exact, &expected_weights, &expected_momenta);
    two_steps(&random, &weights, &momenta);
    /* Each rounding is off by at most a step, 2^-8 and 2^-12, with half of that as deviation. */
    double n = sqrt(2 * 60000.0);
    cr_assert(fabs(weights - expected_weights) < 4 * 0x1p-9 * n, "%g, expected %g", weights,
              expected_weights);
    cr_assert(fabs(momenta - expected_momenta) < 4 * 0x1p-12 * n, "%g, expected %g", momenta,
              expected_momenta);
}
