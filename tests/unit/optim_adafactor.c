/* Adafactor on tensors of more than two dimensions, a matrix each of their last two, against its
 * formula in double precision (Shazeer and Stern 2018, algorithm 4, as torch.optim.Adafactor): few
 * matrices, which are cut into tasks, and more than there are tasks; its random rounding. */
#include "optim_harness.h"

typedef struct shape3 {
    int64_t extent[3]; /* matrices, rows, columns */
} shape3;

static const shape3 shapes[] = {{{3, 20, 7}}, {{70, 3, 5}}, {{200, 1, 3}}, {{1, 90, 40}}};
enum { STEPS = 3 };
static const double eps1 = 0x1p-23, eps2 = 1e-3, lr = 0.1;

static void step_formula(const shape3 *s, int step, const double *g, double *row, double *column,
                         double *p)
{
    size_t matrices = (size_t)s->extent[0], rows = (size_t)s->extent[1],
           columns = (size_t)s->extent[2], n = matrices * rows * columns;
    double fresh = pow(step, -0.8), weights = 0, update = 0, *u = calloc(n, sizeof *u);
    for (size_t k = 0; k < matrices; k++) {
        const double *of = g + k * rows * columns;
        double *r = row + k * rows, *c = column + k * columns, mean = 0;
        for (size_t i = 0; i < rows; i++) {
            double squares = 0;
            for (size_t j = 0; j < columns; j++)
                squares += of[i * columns + j] * of[i * columns + j] / (double)columns;
            r[i] += fresh * (squares - r[i]);
            mean += r[i] / (double)rows;
        }
        for (size_t j = 0; j < columns; j++) {
            double squares = 0;
            for (size_t i = 0; i < rows; i++)
                squares += of[i * columns + j] * of[i * columns + j] / (double)rows;
            c[j] += fresh * (squares - c[j]);
        }
        for (size_t i = 0; i < rows * columns; i++)
            u[k * rows * columns + i] =
                of[i] / sqrt(fmax(r[i / columns] * c[i % columns] / fmax(mean, eps1), eps1 * eps1));
    }
    for (size_t i = 0; i < n; i++) {
        weights += p[i] * p[i] / (double)n;
        update += u[i] * u[i] / (double)n;
    }
    double rate = fmax(eps2, sqrt(weights)) * fmin(lr, 1 / sqrt(step)) / fmax(1, sqrt(update));
    for (size_t i = 0; i < n; i++)
        p[i] -= rate * u[i];
    free(u);
}

static optim_setup setup_of(const shape3 *s)
{
    return (optim_setup){.file = "optim_adafactor",
                         .name = "Adafactor",
                         .options = "{\"lr\": 0.1}",
                         .count = (uint64_t)(s->extent[0] * s->extent[1] * s->extent[2]),
                         .shape = s->extent,
                         .ndim = 3};
}

Test(optim_adafactor, is_its_formula_on_each_matrix)
{
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        const shape3 *s = &shapes[k];
        optim_setup setup = setup_of(s);
        size_t n = setup.count;
        optim o;
        optim_open(&o, &setup);
        double *p = calloc(n, sizeof *p), *g = calloc(n, sizeof *g), *row = calloc(n, sizeof *row),
               *column = calloc(n, sizeof *column);
        for (size_t i = 0; i < n; i++)
            p[i] = optim_weight(&o, i);
        for (int step = 1; step <= STEPS; step++) {
            optim_random_grad(&o, (uint64_t)step);
            for (size_t i = 0; i < n; i++)
                g[i] = read_at(o.grad.data, ZDS_F32, i);
            step_formula(s, step, g, row, column, p);
            optim_step(&o, 0);
        }
        for (size_t i = 0; i < n; i++)
            cr_assert(fabs(optim_weight(&o, i) - p[i]) < 2e-6, "shape %zu, weight %zu: %g, not %g",
                      k, i, optim_weight(&o, i), p[i]);
        free(p);
        free(g);
        free(row);
        free(column);
        optim_close(&o);
    }
}

static double sum_after(const optim_setup *setup)
{
    optim o;
    double sum = 0;
    optim_open(&o, setup);
    for (uint64_t i = 0; i < setup->count; i++) {
        write_at(o.master.data, setup->master, i, 1);
        write_at(o.grad.data, setup->grad, i, 0.5);
    }
    o.hyper.lr = 0.001; /* a quarter of bfloat16's step below 1 */
    optim_step(&o, 0);
    for (uint64_t i = 0; i < setup->count; i++)
        sum += optim_weight(&o, i);
    optim_close(&o);
    return sum;
}

Test(optim_adafactor, random_rounding_is_unbiased)
{
    static const shape3 shape = {{100, 20, 50}};
    optim_setup exact = setup_of(&shape), random = exact;
    random.master = random.grad = random.output = random.state = ZDS_BF16;
    random.stochastic = true;
    double expected = sum_after(&exact), sum = sum_after(&random), n = (double)exact.count;
    /* A weight falls by 2^-8 with probability 0.256. */
    cr_assert(fabs(expected - 0.999 * n) < 1e-3 * n * 0.01);
    cr_assert(fabs(sum - expected) < 4 * 0x1p-8 * sqrt(0.256 * 0.744 * n), "%g, expected %g", sum,
              expected);
}
