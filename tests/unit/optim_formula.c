/* Adam and SGD against their formulas, and what both refuse. */
#include "optim_formula.h"

/* === Adam === */

static void adam(const reference *r, element *e, double g)
{
    const zds_hyper *h = &r->o->hyper;
    bool adamw = strcmp(r->o->setup.name, "AdamW") == 0 || flag(r, "adam_w_mode");
    double preset = flag(r, "torch_adam") && adamw ? 0.01 : 0;
    double decay = isnan(h->weight_decay) ? preset : h->weight_decay;
    if (flag(r, "maximize"))
        g = -g;
    if (adamw || flag(r, "decoupled_weight_decay"))
        e->p -= h->lr * decay * e->p;
    else
        g += decay * e->p;
    e->s[0] = h->beta1 * e->s[0] + (1 - h->beta1) * g;
    e->s[1] = h->beta2 * e->s[1] + (1 - h->beta2) * g * g;
    e->s[2] = fmax(e->s[2], e->s[1]);
    double bias1 = 1 - pow(h->beta1, (double)r->step), bias2 = 1 - pow(h->beta2, (double)r->step);
    if (!flag(r, "bias_correction"))
        bias1 = bias2 = 1;
    double square = flag(r, "amsgrad") ? e->s[2] : e->s[1];
    e->p -= h->lr / bias1 * e->s[0] / (sqrt(square) / sqrt(bias2) + option(r, "eps"));
}

Test(optim_formula, adam)
{
    static const char *const options[] = {
        "{}",
        "{\"lr\": 0.01, \"betas\": [0.8, 0.95], \"eps\": 1e-6, \"weight_decay\": 0.1}",
        "{\"adam_w_mode\": false, \"weight_decay\": 0.1}",
        "{\"bias_correction\": false, \"weight_decay\": 0.1}",
        "{\"torch_adam\": true}",
        "{\"torch_adam\": true, \"amsgrad\": true, \"maximize\": true, \"betas\": [0.9, 0.5]}",
        "{\"torch_adam\": true, \"adam_w_mode\": false, \"weight_decay\": 0.1}",
        "{\"betas\": [0, 0]}",
        "{\"fp32_optimizer_states\": false, \"set_grad_none\": false}",
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        compare("optim_adamw", "AdamW", options[i], adam, 2e-6);
        compare("optim_adamw", "Adam", options[i], adam, 2e-6);
    }
    compare("optim_adamw", "Adam",
            "{\"torch_adam\": true, \"adam_w_mode\": false, \"decoupled_weight_decay\": true}",
            adam, 2e-6); /* 0 of what there is none of */
    compare("optim_adamw", "Adam",
            "{\"torch_adam\": true, \"adam_w_mode\": false, \"decoupled_weight_decay\": true,"
            " \"weight_decay\": 0.1}",
            adam, 2e-6);
}

Test(optim_formula, adam_refuses)
{
    static const struct {
        const char *name, *options, *says;
    } cases[] = {
        {"Adam", "{\"decoupled_weight_decay\": true}", "torch_adam"},
        {"Adam", "{\"torch_adam\": true, \"decoupled_weight_decay\": true}", "adam_w_mode"},
        {"AdamW", "{\"amsgrad\": true}", "torch_adam"},
        {"AdamW", "{\"maximize\": true}", "torch_adam"},
        {"AdamW", "{\"torch_adam\": true, \"bias_correction\": false}", "bias_correction"},
        {"AdamW", "{\"max_grad_norm\": 1.0}", "gradient_clipping"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        optim o;
        optim_setup s = {.file = "optim_adamw", .name = cases[i].name, .options = cases[i].options};
        cr_assert_eq(optim_try(&o, &s), ZDS_ERR_CONFIG);
        cr_assert(strstr(o.h.error, cases[i].says), "\"%s\" lacks \"%s\"", o.h.error,
                  cases[i].says);
        optim_close(&o);
    }
}

/* === SGD === */

static void sgd(const reference *r, element *e, double g)
{
    const zds_hyper *h = &r->o->hyper;
    if (flag(r, "maximize"))
        g = -g;
    g += h->weight_decay * e->p;
    if (h->momentum != 0) {
        e->s[0] = r->step == 1 ? g : h->momentum * e->s[0] + (1 - option(r, "dampening")) * g;
        g = flag(r, "nesterov") ? g + h->momentum * e->s[0] : e->s[0];
    }
    e->p -= h->lr * g;
}

Test(optim_formula, sgd)
{
    static const char *const options[] = {
        "{}",
        "{\"lr\": 0.1, \"weight_decay\": 0.1}",
        "{\"lr\": 0.1, \"momentum\": 0.9}",
        "{\"lr\": 0.1, \"momentum\": 0.9, \"dampening\": 0.4, \"maximize\": true}",
        "{\"lr\": 0.1, \"momentum\": 0.9, \"nesterov\": true, \"weight_decay\": 0.01}",
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        compare("optim_sgd", "SGD", options[i], sgd, 4e-6);
}

Test(optim_formula, sgd_refuses)
{
    static const char *const options[] = {
        "{\"nesterov\": true}", "{\"nesterov\": true, \"momentum\": 0.9, \"dampening\": 0.1}"};
    for (size_t i = 0; i < 2; i++) {
        optim o;
        optim_setup s = {.file = "optim_sgd", .name = "SGD", .options = options[i]};
        cr_assert_eq(optim_try(&o, &s), ZDS_ERR_CONFIG);
        cr_assert(strstr(o.h.error, "nesterov"));
        optim_close(&o);
    }
}

/* === what all share === */

Test(optim_formula, an_unknown_simd_level_is_refused)
{
    optim o;
    optim_setup s = {.file = "optim_sgd", .name = "SGD", .options = "{}", .simd = "mmx"};
    cr_assert_eq(optim_try(&o, &s), ZDS_ERR_INVALID);
    cr_assert(strstr(o.h.error, "mmx"));
    optim_close(&o);
}
