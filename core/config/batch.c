/* The batch triangle: samples a step = samples a micro step x micro steps x ranks. Any one of the
 * three follows from the others, or two of them from train_batch_size or the micro batch, as in
 * DeepSpeed's _set_batch_related_parameters. */
#include <stdio.h>
#include <string.h>

#include "config/internal.h"

enum { TRAIN, MICRO, STEPS, SIZES };
static const char *const names[SIZES] = {"train_batch_size", "train_micro_batch_size_per_gpu",
                                         "gradient_accumulation_steps"};

typedef __int128 wide;
#define WIDEST ((wide)(~(unsigned __int128)0 >> 1))

static wide times(wide a, wide b)
{
    wide product;
    return __builtin_mul_overflow(a, b, &product) ? WIDEST : product;
}

typedef struct triangle {
    zds_config *c;
    const value *v[SIZES];
    wide size[SIZES], ranks;
} triangle;

/* In decimal; `text` holds 48. */
static void show(wide x, char *text)
{
    char digits[48];
    int n = 0, at = 0;
    if (x == WIDEST) {
        strcpy(text, "more than 10^38");
        return;
    }
    do
        digits[n++] = (char)('0' + (int)(x % 10));
    while ((x /= 10) > 0);
    while (n > 0)
        text[at++] = digits[--n];
    text[at] = '\0';
}

/* True for a size that the file has as a number, not as "auto". */
static bool is_written(const triangle *t, int i)
{
    const cJSON *node = tree_find(t->c->raw, names[i]);
    return node && !cJSON_IsNull(node) && !tree_is_auto(node);
}

/* A problem at a size, or, where nothing wrote it, at the one that was written. */
#define REFUSE(t, i, ...)                                                                          \
    problem_add((t)->c, ZDS_PROBLEM_ERROR, ZDS_CHECK_DEEPSPEED, names[i], __VA_ARGS__)

typedef struct phrase {
    char text[384];
} phrase;

/* " (2:5)", or who filled "auto". */
static void show_origin(const triangle *t, int i, char *text, size_t size)
{
    static const char *const arguments[SIZES] = {
        [MICRO] = "per_device_train_batch_size", [STEPS] = "gradient_accumulation_steps"};
    source_place at = source_value_place(t->c->src, tree_find(t->c->raw, names[i]));
    *text = '\0';
    if (!is_written(t, i))
        snprintf(text, size, " (%s %s)",
                 cJSON_HasObjectItem(t->c->arguments, arguments[i]) ? "from the training argument"
                                                                    : "the default of",
                 arguments[i]);
    else if (at.line)
        snprintf(text, size, " (%d:%d)", at.line, at.column);
}

/* "train_micro_batch_size_per_gpu 4 (2:5) x gradient_accumulation_steps 1 (the default of
 * gradient_accumulation_steps) x 2 ranks": the given sizes from `first` to `last`. */
static phrase factors(const triangle *t, int first, int last)
{
    phrase out;
    size_t used = 0;
    for (int i = first; i <= last; i++) {
        if (t->v[i]->null)
            continue;
        char size[48], origin[80];
        show(t->size[i], size);
        show_origin(t, i, origin, sizeof origin);
        used += (size_t)snprintf(out.text + used, sizeof out.text - used, "%s%s %s%s",
                                 used ? " x " : "", names[i], size, origin);
    }
    char ranks[48];
    show(t->ranks, ranks);
    snprintf(out.text + used, sizeof out.text - used, "%s%s rank%s", used ? " x " : "", ranks,
             t->ranks == 1 ? "" : "s");
    return out;
}

/* "30 or 40": the multiples of `unit` around a size. */
static phrase multiples(wide size, wide unit)
{
    phrase out;
    char low[48], high[48];
    wide below = size / unit * unit;
    show(below, low);
    show(below + unit, high);
    if (below == 0 || below + unit > INT64_MAX)
        snprintf(out.text, sizeof out.text, "%s", below ? low : high);
    else
        snprintf(out.text, sizeof out.text, "%s or %s", low, high);
    return out;
}

/* Samples a step, from the two others. */
static void multiply(triangle *t)
{
    char total[48];
    wide product = times(times(t->size[MICRO], t->size[STEPS]), t->ranks);
    show(product, total);
    if (product > INT64_MAX)
        REFUSE(t, MICRO, "%s is %s samples a step, more than can be counted; write smaller numbers",
               factors(t, MICRO, STEPS).text, total);
    t->size[TRAIN] = product > INT64_MAX ? INT64_MAX : product;
}

/* What is left of the samples a step for the size that is not given. */
static void divide(triangle *t, int derived)
{
    int given = derived == MICRO ? STEPS : MICRO;
    wide unit = times(t->v[given]->null ? 1 : t->size[given], t->ranks);
    char size[48], product[48];
    show(t->size[TRAIN], size);
    show(unit, product);
    t->size[derived] = t->size[TRAIN] / unit;
    if (t->size[TRAIN] % unit == 0)
        return;
    if (unit > INT64_MAX)
        REFUSE(t, TRAIN, "%s is no multiple of %s = %s; write a smaller %s", size,
               factors(t, given, given).text, product, names[given]);
    else if (t->v[given]->null)
        REFUSE(t, TRAIN, "%s samples cannot be shared equally by %s ranks; write %s", size, product,
               multiples(t->size[TRAIN], unit).text);
    else
        REFUSE(t, TRAIN, "%s is no multiple of %s = %s; write %s, or change %s", size,
               factors(t, given, given).text, product, multiples(t->size[TRAIN], unit).text,
               names[given]);
}

static void compare(const triangle *t)
{
    wide product = times(times(t->size[MICRO], t->size[STEPS]), t->ranks);
    char size[48], total[48];
    show(t->size[TRAIN], size);
    show(product, total);
    if (product != t->size[TRAIN])
        REFUSE(t, TRAIN,
               "%s is not %s = %s; change one of them, or delete one so that it follows from the "
               "others",
               size, factors(t, MICRO, STEPS).text, total);
}

/* Where the file and the arguments differ, that is told, and what follows from it is not. */
static bool is_mixed(const triangle *t)
{
    bool mixed = false, told = false;
    for (int i = 0; i < SIZES; i++) {
        mixed |= !t->v[i]->null && !is_written(t, i);
        told |= problem_is_told(t->c, names[i]);
    }
    return mixed && told;
}

void effective_batch(zds_config *c)
{
    triangle t = {.c = c, .ranks = c->world_size};
    bool bad = false;
    for (int i = 0; i < SIZES; i++) {
        t.v[i] = value_of(c, names[i]);
        t.size[i] = t.v[i]->null ? 1 : t.v[i]->integer;
        bad |= t.v[i]->bad;
    }
    if (bad)
        return;
    if (t.v[TRAIN]->null && t.v[MICRO]->null) {
        REFUSE(&t, TRAIN,
               "is missing, and so is train_micro_batch_size_per_gpu; write one of them");
        return;
    }
    if (t.v[TRAIN]->null)
        multiply(&t);
    else if (t.v[MICRO]->null)
        divide(&t, MICRO);
    else if (t.v[STEPS]->null)
        divide(&t, STEPS);
    else if (!is_mixed(&t))
        compare(&t);
    for (int i = 0; i < SIZES; i++) {
        value *v = &c->values[field_find_path(&c->index, names[i])];
        v->null = false;
        v->integer = (int64_t)t.size[i];
        v->number = (double)t.size[i];
    }
}
