/* zds-config schedule: the learning rate of every step, as a table, JSON, or a curve. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/fail.h"
#include "common/metrics.h"
#include "common/output.h"
#include "zds/zds.h"

typedef struct schedule {
    size_t count;
    zds_schedule_point *points; /* [count] */
    bool moves_betas;
    double *metrics; /* [count] where the schedule follows one, else NULL */
} schedule;

/* As zds_schedule_points. */
static zds_status compute(const zds_config *config, int64_t steps, schedule *s, zds_error *error)
{
    choices own;
    zds_status status = ZDS_OK;
    bool moves_betas = false;
    choices_read(config, steps, &own);
    const zds_engine_options *o = &own.options;
    if (o->warmup_steps < 0 && o->scheduler && !zds_config_string(config, "scheduler.type"))
        status =
            fail(error, ZDS_ERR_CONFIG,
                 "error: scheduler %s: its warm-up is a share of the training steps, and how many "
                 "there are is not known; give --num-training-steps",
                 o->scheduler);
    else
        status =
            zds_schedule_points(config, o, s->metrics, s->count, s->points, &moves_betas, error);
    s->moves_betas = moves_betas;
    choices_release(&own);
    return status;
}

/* How many betas the optimizer has. */
static int betas_of(const schedule *s)
{
    return isnan(s->points[0].beta3) ? 2 : 3;
}

/* Adds the steps to `out`, which it returns. */
static cJSON *as_json(const schedule *s, cJSON *out)
{
    cJSON *lr = cJSON_AddArrayToObject(out, "lr"),
          *betas = s->moves_betas ? cJSON_AddArrayToObject(out, "betas") : NULL;
    for (size_t i = 0; i < s->count; i++) {
        const zds_schedule_point *p = &s->points[i];
        const double all[] = {p->beta1, p->beta2, p->beta3};
        cJSON_AddItemToArray(lr, cJSON_CreateNumber(p->lr));
        if (betas)
            cJSON_AddItemToArray(betas, cJSON_CreateDoubleArray(all, betas_of(s)));
    }
    if (!betas)
        cJSON_AddNullToObject(out, "betas");
    return out;
}

static void print_table(const schedule *s)
{
    bool third = s->moves_betas && betas_of(s) == 3;
    printf("step\tlr%s%s\n", s->moves_betas ? "\tbeta1\tbeta2" : "", third ? "\tbeta3" : "");
    for (size_t i = 0; i < s->count; i++) {
        printf("%zu\t%.9g", i + 1, s->points[i].lr);
        if (s->moves_betas)
            printf("\t%.9g\t%.9g", s->points[i].beta1, s->points[i].beta2);
        if (third)
            printf("\t%.9g", s->points[i].beta3);
        putchar('\n');
    }
}

static double highest(const schedule *s)
{
    double most = 0;
    for (size_t i = 0; i < s->count; i++)
        most = fmax(most, s->points[i].lr);
    return most > 0 ? most : 1;
}

/* 72 columns of 16 rows, each character a step of an eighth. */
static void plot(const schedule *s)
{
    enum { ROWS = 16, COLUMNS = 72 };
    static const char *const eighths[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    double most = highest(s);
    size_t columns = s->count < COLUMNS ? s->count : COLUMNS;
    for (int row = ROWS - 1; row >= 0; row--) {
        if (row == ROWS - 1)
            printf("%10.3g |", most);
        else
            printf("%10s |", row == 0 ? "0" : "");
        for (size_t column = 0; column < columns; column++) {
            size_t i = columns > 1 ? column * (s->count - 1) / (columns - 1) : 0;
            int full = (int)lround(s->points[i].lr / most * ROWS * 8) - row * 8;
            fputs(eighths[full < 0 ? 0 : full > 8 ? 8 : full], stdout);
        }
        putchar('\n');
    }
    printf("%10s +", "");
    for (size_t column = 0; column < columns; column++)
        putchar('-');
    printf("\n%11s1%*zu  step\n", "", (int)columns, s->count);
}

static zds_status write_svg(const schedule *s, const char *path, zds_error *error)
{
    enum { WIDTH = 720, HEIGHT = 320, EDGE = 60 };
    double most = highest(s), x_step = s->count > 1 ? (double)WIDTH / (double)(s->count - 1) : 0;
    FILE *out = fopen(path, "we");
    if (!out)
        return fail(error, ZDS_ERR_IO, "%s: %m", path);
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n"
            "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#888\"/>\n"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.3g</text>\n"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">0</text>\n"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">step %zu</text>\n"
            "<polyline fill=\"none\" stroke=\"#06c\" stroke-width=\"2\" points=\"",
            WIDTH + 2 * EDGE, HEIGHT + 2 * EDGE, EDGE, EDGE, HEIGHT + EDGE, WIDTH + EDGE, EDGE - 6,
            EDGE + 4, most, EDGE - 6, HEIGHT + EDGE + 4, WIDTH + EDGE, HEIGHT + EDGE + 20,
            s->count);
    for (size_t i = 0; i < s->count; i++)
        fprintf(out, "%.2f,%.2f ", EDGE + x_step * (double)i,
                EDGE + HEIGHT * (1 - s->points[i].lr / most));
    fputs("\"/>\n</svg>\n", out);
    bool good = !ferror(out);
    if (fclose(out) != 0 || !good)
        return fail(error, ZDS_ERR_IO, "%s: cannot be written: %m", path);
    return ZDS_OK;
}

/* One metric a step; steps beyond the file have none. */
static zds_status read_metrics(schedule *s, const char *path, zds_error *error)
{
    size_t count = 0;
    zds_status status = metrics_read(path, &s->metrics, &count, error);
    if (status)
        return status;
    if (count > s->count)
        return fail(error, ZDS_ERR_FORMAT, "%s: has %zu metrics, but there are %zu steps", path,
                    count, s->count);
    double *all = realloc(s->metrics, s->count * sizeof *all);
    if (!all)
        return fail(error, ZDS_ERR_MEMORY, "%s: there is no memory for its metrics", path);
    s->metrics = all;
    for (size_t i = count; i < s->count; i++)
        all[i] = NAN;
    return ZDS_OK;
}

/* Computes it and shows it in the ways that are asked for. */
static int show(const zds_config *config, schedule *s, int64_t steps, const char *observe,
                const char *svg, bool draw, bool json)
{
    zds_error error = ZDS_ERROR_INIT;
    problem_list all = {0};
    problems_of_config(config, &all);
    int status = problems_code(config, &all), code = EXIT_FAILED;
    if ((observe && read_metrics(s, observe, &error) != ZDS_OK) ||
        compute(config, steps, s, &error) != ZDS_OK ||
        (svg && write_svg(s, svg, &error) != ZDS_OK)) {
        problems_add_error(&all, &error);
        if (json)
            output_json(report_json(EXIT_FAILED, &all));
        else
            failed(&error, false);
    } else if (json) {
        code = output_json(as_json(s, status ? report_json(status, &all) : cJSON_CreateObject()));
    } else {
        if (draw)
            plot(s);
        else if (!svg)
            print_table(s);
        code = output_end();
    }
    if (!json)
        tell_problems(config);
    zds_error_clear(&error);
    problems_release(&all);
    return code == EXIT_DONE ? status : code;
}

int command_schedule(int argc, char **argv)
{
    context_args context = {0};
    int64_t steps = 0;
    bool json = false, draw = false;
    const char *svg = NULL, *observe = NULL;
    enum { OWN = 5 };
    args_option options[OWN + CONTEXT_OPTIONS] = {
        {.name = "steps",
         .type = ARGS_INT,
         .value = &steps,
         .meta = "N",
         .doc = "how many steps to show (--num-training-steps)"},
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"},
        {.name = "plot", .type = ARGS_FLAG, .value = &draw, .doc = "draw the curve"},
        {.name = "svg",
         .type = ARGS_STRING,
         .value = &svg,
         .meta = "FILE",
         .doc = "write the curve as a picture"},
        {.name = "observe",
         .type = ARGS_STRING,
         .value = &observe,
         .meta = "FILE",
         .doc = "what a schedule that follows a metric gets after each step: a JSON array of "
                "numbers and nulls"}};
    context_options(&context, options + OWN);
    const args_program program = {
        .usage = "schedule FILE [ctx] --steps N [--json | --plot] [--svg FILE] [--observe FILE]",
        .doc = "Shows the learning rate of every step: of the config's scheduler, else of "
               "lr_scheduler_type among the\narguments, else a constant one.",
        .options = options,
        .option_count = OWN + CONTEXT_OPTIONS,
        .min_words = 1,
        .max_words = 1};
    args_words words;
    int code = args_parse(&program, argc, argv, &words);
    if (code != ARGS_GO || (code = context_read(&context)) != ARGS_GO)
        return code;
    steps = steps ? steps : context.num_training_steps;
    if (steps < 1 || steps > 10000000)
        return args_wrong("--steps must be from 1 to 10000000");
    if (json && draw)
        return args_wrong("--json and --plot both write to stdout: give one of them, or --svg");
    schedule s = {.count = (size_t)steps, .points = calloc((size_t)steps, sizeof *s.points)};
    zds_config *config = s.points ? load_config(words.word[0], &context, json) : NULL;
    code = config ? show(config, &s, context.num_training_steps, observe, svg, draw, json)
                  : EXIT_FAILED;
    zds_config_destroy(config);
    free(s.points);
    free(s.metrics);
    return code;
}
