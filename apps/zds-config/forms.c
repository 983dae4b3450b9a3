/* zds-config resolve, effective and get: the three forms of a config. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/output.h"

/* === the command line that the three share === */

typedef struct form {
    context_args context;
    args_option options[CONTEXT_OPTIONS + 1];
    args_words words;
    zds_config *config;
    bool json;
} form;

static int form_open(form *f, const char *usage, const char *doc, size_t word_count, int argc,
                     char **argv)
{
    *f = (form){0};
    f->options[0] =
        (args_option){.name = "json", .type = ARGS_FLAG, .value = &f->json, .doc = "print JSON"};
    context_options(&f->context, f->options + 1);
    const args_program program = {.usage = usage,
                                  .doc = doc,
                                  .options = f->options,
                                  .option_count = CONTEXT_OPTIONS + 1,
                                  .min_words = word_count,
                                  .max_words = word_count};
    int code = args_parse(&program, argc, argv, &f->words);
    if (code != ARGS_GO || (code = context_read(&f->context)) != ARGS_GO)
        return code;
    f->context.context.check_plugins = true;
    f->config = load_config(f->words.word[0], &f->context, f->json);
    return f->config ? ARGS_GO : EXIT_FAILED;
}

/* === resolve === */

static bool is_mismatch(const zds_config *config, const zds_problem *p)
{
    zds_hf_mismatch m;
    for (size_t i = 0; zds_hf_config_mismatch(zds_config_hf(config), i, &m); i++)
        if (strcmp(m.ds_key, p->path) == 0)
            return true;
    return false;
}

/* Errors of the reading and filling, mismatches apart; those of DeepSpeed come later in a run. */
static cJSON *resolve_errors(const zds_config *config)
{
    cJSON *errors = cJSON_CreateArray();
    zds_problem p;
    for (size_t i = 0; zds_config_problem(config, i, &p); i++)
        if (p.severity == ZDS_PROBLEM_ERROR &&
            (p.check == ZDS_CHECK_SYNTAX ||
             (p.check == ZDS_CHECK_ARGUMENTS && !is_mismatch(config, &p))))
            cJSON_AddItemToArray(errors, problem_json(&p));
    return errors;
}

/* A mismatch is none while it is not clear what the two sides say. */
static bool is_readable(const zds_config *config)
{
    zds_problem p;
    for (size_t i = 0; zds_config_problem(config, i, &p); i++)
        if (p.severity == ZDS_PROBLEM_ERROR && p.check == ZDS_CHECK_SYNTAX)
            return false;
    return true;
}

static cJSON *resolve_mismatches(const zds_hf_config *hf)
{
    cJSON *rows = cJSON_CreateArray();
    zds_hf_mismatch m;
    for (size_t i = 0; zds_hf_config_mismatch(hf, i, &m); i++) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddStringToObject(row, "ds_key", m.ds_key);
        cJSON_AddItemToObject(row, "ds_value", cJSON_Parse(m.ds_value));
        cJSON_AddStringToObject(row, "hf_key", m.hf_key);
        cJSON_AddItemToObject(row, "hf_value", cJSON_Parse(m.hf_value));
        cJSON_AddItemToArray(rows, row);
    }
    return rows;
}

int command_resolve(int argc, char **argv)
{
    form f;
    int code = form_open(&f, "resolve FILE [ctx] [--json]",
                         "Fills \"auto\" from the training arguments and says where the file "
                         "contradicts them. Exit 0,\n1 (error) or 3 (mismatch).",
                         1, argc, argv);
    if (code == ARGS_GO) {
        const zds_hf_config *hf = zds_config_hf(f.config);
        cJSON *errors = resolve_errors(f.config), *mismatches = resolve_mismatches(hf);
        int status = !is_readable(f.config) ? EXIT_FAILED
                     : mismatches->child    ? EXIT_MISMATCH
                     : errors->child        ? EXIT_FAILED
                                            : EXIT_DONE;
        static const char *const names[] = {
            [EXIT_DONE] = "ok", [EXIT_FAILED] = "error", [EXIT_MISMATCH] = "mismatch"};
        cJSON *told = cJSON_CreateArray(); /* errors and mismatches, with their places */
        zds_problem p;
        for (size_t i = 0; zds_config_problem(f.config, i, &p); i++) {
            if (p.severity != ZDS_PROBLEM_ERROR || p.check > ZDS_CHECK_ARGUMENTS)
                continue;
            cJSON_AddItemToArray(told, problem_json(&p));
            if (!f.json)
                problem_tell(&p, "error");
        }
        cJSON *resolved = take_json(zds_hf_config_json(hf));
        if (f.json) {
            cJSON *out = cJSON_CreateObject();
            cJSON_AddStringToObject(out, "status", names[status]);
            cJSON_AddStringToObject(out, "dtype", zds_hf_config_dtype(hf));
            cJSON_AddBoolToObject(out, "is_zero2", zds_hf_config_is_zero2(hf));
            cJSON_AddBoolToObject(out, "is_zero3", zds_hf_config_is_zero3(hf));
            cJSON_AddBoolToObject(out, "is_offload", zds_hf_config_is_offload(hf));
            cJSON_AddItemToObject(out, "resolved", resolved);
            cJSON_AddItemToObject(out, "mismatches", mismatches);
            cJSON_AddItemToObject(out, "errors", errors);
            cJSON_AddItemToObject(out, "problems", told);
            code = output_json(out);
        } else {
            cJSON_Delete(errors);
            cJSON_Delete(told);
            cJSON_Delete(mismatches);
            code = output_json(resolved);
        }
        code = code == EXIT_DONE ? status : code;
    }
    zds_config_destroy(f.config);
    return code;
}

/* === effective === */

int command_effective(int argc, char **argv)
{
    form f;
    int code = form_open(&f, "effective FILE [ctx] [--json]",
                         "Prints every value that an engine reads, typed and defaulted. Exit 1 if "
                         "DeepSpeed would fail.",
                         1, argc, argv);
    if (code == ARGS_GO) {
        cJSON *errors = cJSON_CreateArray(), *stricter = cJSON_CreateArray();
        problem_list all = {0};
        problems_of_config(f.config, &all);
        problems_of_engine(f.config, f.context.num_training_steps, &all);
        for (size_t i = 0; i < all.count; i++) {
            const zds_problem *p = &all.list[i];
            bool error = p->severity == ZDS_PROBLEM_ERROR && p->check != ZDS_CHECK_ZDS;
            cJSON_AddItemToArray(error ? errors : stricter, problem_json(p));
            if (!f.json)
                problem_tell(p, error ? "error" : "problem");
        }
        int status = errors->child || all.failed ? EXIT_FAILED : EXIT_DONE;
        cJSON *values = take_json(zds_config_effective(f.config));
        if (f.json) {
            cJSON *out = cJSON_CreateObject();
            cJSON_AddStringToObject(out, "status", status == EXIT_DONE ? "ok" : "error");
            cJSON_AddItemToObject(out, "values", values);
            cJSON_AddItemToObject(out, "errors", errors);
            cJSON_AddItemToObject(out, "problems", stricter);
            code = output_json(out);
        } else {
            cJSON_Delete(errors);
            cJSON_Delete(stricter);
            code = output_json(values);
        }
        code = code == EXIT_DONE ? status : code;
        problems_release(&all);
    }
    zds_config_destroy(f.config);
    return code;
}

/* === get === */

int command_get(int argc, char **argv)
{
    form f;
    int code = form_open(&f, "get FILE KEY [ctx]",
                         "Prints the effective value of a key (zero_optimization.stage), or what "
                         "the file has below it.\nExit 1 (errors in the file, told on stderr) or 3 "
                         "(mismatch).",
                         2, argc, argv);
    if (code == ARGS_GO) {
        cJSON *value = take_json(zds_config_value(f.config, f.words.word[1]));
        problem_list all = {0};
        problems_of_config(f.config, &all);
        int status = problems_code(f.config, &all);
        if (!value) {
            zds_error error = ZDS_ERROR_INIT;
            no_key(f.words.word[1], &error);
            code = failed(&error, f.json);
            zds_error_clear(&error);
        } else if (f.json && status) {
            cJSON *out = report_json(status, &all);
            cJSON_AddItemToObject(out, "value", value);
            code = output_json(out);
        } else if (cJSON_IsString(value) && !f.json) {
            puts(value->valuestring);
            cJSON_Delete(value);
            code = output_end();
        } else {
            code = output_json(value);
        }
        if (!f.json)
            tell_problems(f.config);
        code = code == EXIT_DONE ? status : code;
        problems_release(&all);
    }
    zds_config_destroy(f.config);
    return code;
}
