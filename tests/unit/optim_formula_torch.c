/* Lion and torch's other element-wise optimizers against their formulas, as torch.optim and (for
 * Lion) Chen et al. 2023 write them. */
#include "optim_formula.h"

static void descend(const reference *r, element *e, double *g)
{
    if (flag(r, "maximize"))
        *g = -*g;
    *g += r->o->hyper.weight_decay * e->p;
}

static void compare_all(const char *file, const char *name, const char *const *options,
                        size_t count, formula_fn formula, double tolerance)
{
    for (size_t i = 0; i < count; i++)
        compare(file, name, options[i], formula, tolerance);
}

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

/* === Lion === */

static void lion(const reference *r, element *e, double g)
{
    const zds_hyper *h = &r->o->hyper;
    double mixed = h->beta1 * e->s[0] + (1 - h->beta1) * g;
    double sign = (mixed > 0) - (mixed < 0);
    e->p -= h->lr * (sign + h->weight_decay * e->p);
    e->s[0] = h->beta2 * e->s[0] + (1 - h->beta2) * g;
}

Test(optim_formula_torch, lion)
{
    static const char *const options[] = {
        "{}", "{\"lr\": 0.01, \"betas\": [0.9, 0.99], \"weight_decay\": 0.1}"};
    compare_all("optim_lion", "Lion", options, COUNT_OF(options), lion, 2e-6);
}

/* A row that never gets a gradient must not drift. */
Test(optim_formula_torch, lion_leaves_what_has_no_gradient)
{
    optim_setup s = {.file = "optim_lion",
                     .name = "Lion",
                     .options = "{}",
                     .count = 20,
                     .master = ZDS_F32,
                     .grad = ZDS_F32,
                     .output = ZDS_F32,
                     .state = ZDS_F32};
    optim o;
    optim_open(&o, &s);
    double before[20];
    for (uint64_t i = 0; i < 20; i++)
        before[i] = optim_weight(&o, i);
    optim_step(&o, 0);
    for (uint64_t i = 0; i < 20; i++)
        cr_assert_eq(optim_weight(&o, i), before[i]);
    optim_close(&o);
}

/* === Adagrad === */

static void adagrad(const reference *r, element *e, double g)
{
    descend(r, e, &g);
    e->s[0] += g * g;
    double rate = r->o->hyper.lr / (1 + (double)(r->step - 1) * option(r, "lr_decay"));
    e->p -= rate * g / (sqrt(e->s[0]) + option(r, "eps"));
}

Test(optim_formula_torch, adagrad)
{
    static const char *const options[] = {
        "{}", "{\"lr\": 0.1, \"lr_decay\": 0.1, \"weight_decay\": 0.1, \"maximize\": true}",
        "{\"initial_accumulator_value\": 0.5, \"eps\": 1e-3}"};
    compare_all("optim_adagrad", "Adagrad", options, COUNT_OF(options), adagrad, 2e-6);
}

/* === RMSprop === */

static void rmsprop(const reference *r, element *e, double g)
{
    double alpha = option(r, "alpha"), momentum = r->o->hyper.momentum;
    bool has_momentum = momentum > 0;
    descend(r, e, &g);
    e->s[0] = alpha * e->s[0] + (1 - alpha) * g * g;
    double variance = e->s[0];
    if (flag(r, "centered")) {
        double *mean = &e->s[has_momentum ? 2 : 1];
        *mean = alpha * *mean + (1 - alpha) * g;
        variance -= *mean * *mean;
    }
    double step = g / (sqrt(variance) + option(r, "eps"));
    if (has_momentum)
        step = e->s[1] = momentum * e->s[1] + step;
    e->p -= r->o->hyper.lr * step;
}

Test(optim_formula_torch, rmsprop)
{
    static const char *const options[] = {
        "{}",
        "{\"lr\": 0.001, \"alpha\": 0.9, \"weight_decay\": 0.1, \"centered\": true}",
        "{\"lr\": 0.001, \"momentum\": 0.5, \"maximize\": true}",
        "{\"lr\": 0.001, \"momentum\": 0.5, \"centered\": true, \"eps\": 1e-4}",
    };
    compare_all("optim_rmsprop", "RMSprop", options, COUNT_OF(options), rmsprop, 4e-6);
}

/* With equal gradients the variance is 0 but for rounding, which must not make NaN. */
Test(optim_formula_torch, rmsprop_centered_on_a_constant_gradient)
{
    optim_setup s = {.file = "optim_rmsprop",
                     .name = "RMSprop",
                     .options = "{\"centered\": true, \"alpha\": 0.5}",
                     .count = 50,
                     .master = ZDS_F32,
                     .grad = ZDS_F32,
                     .output = ZDS_F32,
                     .state = ZDS_F32};
    optim o;
    optim_open(&o, &s);
    for (uint64_t i = 0; i < s.count; i++)
        write_at(o.grad.data, ZDS_F32, i, round_dtype(0.1 + 0.01 * (double)i, ZDS_F32));
    for (int k = 0; k < 100; k++)
        optim_step(&o, 0);
    for (uint64_t i = 0; i < s.count; i++)
        cr_assert(isfinite(optim_weight(&o, i)));
    optim_close(&o);
}

/* === Adamax === */

static void adamax(const reference *r, element *e, double g)
{
    const zds_hyper *h = &r->o->hyper;
    descend(r, e, &g);
    e->s[0] = h->beta1 * e->s[0] + (1 - h->beta1) * g;
    e->s[1] = fmax(h->beta2 * e->s[1], fabs(g) + option(r, "eps"));
    e->p -= h->lr / (1 - pow(h->beta1, (double)r->step)) * e->s[0] / e->s[1];
}

Test(optim_formula_torch, adamax)
{
    static const char *const options[] = {
        "{}", "{\"betas\": [0.8, 0.9], \"eps\": 1e-3, \"weight_decay\": 0.1, \"maximize\": true}"};
    compare_all("optim_adamax", "Adamax", options, COUNT_OF(options), adamax, 2e-6);
}

/* === NAdam: s[3] is the product of momenta, less 1 so that it starts at 0 === */

static void nadam(const reference *r, element *e, double g)
{
    const zds_hyper *h = &r->o->hyper;
    double t = (double)r->step, decay = option(r, "momentum_decay");
    if (flag(r, "maximize"))
        g = -g;
    if (flag(r, "decoupled_weight_decay"))
        e->p *= 1 - h->lr * h->weight_decay;
    else
        g += h->weight_decay * e->p;
    double mu = h->beta1 * (1 - 0.5 * pow(0.96, t * decay));
    double mu_next = h->beta1 * (1 - 0.5 * pow(0.96, (t + 1) * decay));
    double product = (1 + e->s[3]) * mu;
    e->s[3] = product - 1;
    e->s[0] = h->beta1 * e->s[0] + (1 - h->beta1) * g;
    e->s[1] = h->beta2 * e->s[1] + (1 - h->beta2) * g * g;
    double denominator = sqrt(e->s[1] / (1 - pow(h->beta2, t))) + option(r, "eps");
    e->p -= h->lr * (1 - mu) / (1 - product) * g / denominator;
    e->p -= h->lr * mu_next / (1 - product * mu_next) * e->s[0] / denominator;
}

Test(optim_formula_torch, nadam)
{
    static const char *const options[] = {
        "{}", "{\"weight_decay\": 0.1, \"decoupled_weight_decay\": true, \"eps\": 1e-4}",
        ("{\"betas\": [0.8, 0.9], \"weight_decay\": 0.1, \"momentum_decay\": 0.1, "
         "\"maximize\": true}")};
    compare_all("optim_nadam", "NAdam", options, COUNT_OF(options), nadam, 4e-6);
}

/* === RAdam === */

static void radam(const reference *r, element *e, double g)
{
    const zds_hyper *h = &r->o->hyper;
    double t = (double)r->step, bias2 = 1 - pow(h->beta2, t);
    if (flag(r, "maximize"))
        g = -g;
    if (flag(r, "decoupled_weight_decay"))
        e->p *= 1 - h->lr * h->weight_decay;
    else
        g += h->weight_decay * e->p;
    e->s[0] = h->beta1 * e->s[0] + (1 - h->beta1) * g;
    e->s[1] = h->beta2 * e->s[1] + (1 - h->beta2) * g * g;
    double mean = e->s[0] / (1 - pow(h->beta1, t)), rho_inf = 2 / (1 - h->beta2) - 1;
    double rho = rho_inf - 2 * t * pow(h->beta2, t) / bias2, update = 1;
    if (rho > 5)
        update = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) *
                 sqrt(bias2) / (sqrt(e->s[1]) + option(r, "eps"));
    e->p -= h->lr * mean * update;
}

Test(optim_formula_torch, radam)
{
    static const char *const options[] = {
        "{}", "{\"lr\": 0.01, \"weight_decay\": 0.1, \"decoupled_weight_decay\": true}",
        "{\"betas\": [0.8, 0.9], \"weight_decay\": 0.1, \"eps\": 1e-3, \"maximize\": true}"};
    compare_all("optim_radam", "RAdam", options, COUNT_OF(options), radam, 2e-6);
}

/* === Adadelta === */

static void adadelta(const reference *r, element *e, double g)
{
    double rho = option(r, "rho"), eps = option(r, "eps");
    descend(r, e, &g);
    e->s[0] = rho * e->s[0] + (1 - rho) * g * g;
    double delta = sqrt(e->s[1] + eps) / sqrt(e->s[0] + eps) * g;
    e->s[1] = rho * e->s[1] + (1 - rho) * delta * delta;
    e->p -= r->o->hyper.lr * delta;
}

Test(optim_formula_torch, adadelta)
{
    static const char *const options[] = {
        "{}", "{\"lr\": 0.5, \"rho\": 0.8, \"eps\": 1e-4, \"weight_decay\": 0.1, \"maximize\": "
              "true}"};
    compare_all("optim_adadelta", "Adadelta", options, COUNT_OF(options), adadelta, 4e-6);
}
