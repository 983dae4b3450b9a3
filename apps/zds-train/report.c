/* Metrics, progress and memory of a run. */
#include "report.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/fail.h"
#include "common/files.h"

zds_status report_create(const char *folder, int64_t logging_steps, int64_t total, report *r,
                         zds_error *error)
{
    *r = (report){.logging_steps = logging_steps, .total = total};
    r->terminal = isatty(STDERR_FILENO);
    r->losses = calloc((size_t)total, sizeof *r->losses);
    r->path = path_join(folder, "metrics.jsonl");
    bool beside = r->path && access(r->path, F_OK) == 0;
    if (beside) {
        r->final_path = r->path;
        r->path = path_join(folder, "metrics.jsonl.new");
    }
    if (!r->path || !r->losses)
        return fail(error, ZDS_ERR_MEMORY, "there is no memory for the metrics");
    int nameless = beside ? open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666) : -1;
    r->nameless = nameless >= 0;
    r->metrics = r->nameless ? fdopen(nameless, "w") : fopen(r->path, "we");
    return r->metrics
               ? ZDS_OK
               : fail(error, ZDS_ERR_IO, "%s: cannot be created: %s", r->path, strerror(errno));
}

static zds_status write_metrics(report *r, const zds_step_result *s, double seconds, double tokens,
                                zds_error *error)
{
    const struct {
        const char *name;
        double value;
    } fields[] = {{"step", (double)r->steps},
                  {"loss", s->loss},
                  {"learning_rate", s->next_lr},
                  {"grad_norm", s->grad_norm},
                  {"loss_scale", s->loss_scale}},
      times[] = {{"tokens_per_second", tokens / seconds}, {"step_time_ms", seconds * 1e3}};
    cJSON *line = cJSON_CreateObject();
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        cJSON_AddNumberToObject(line, fields[i].name, fields[i].value);
    cJSON_AddBoolToObject(line, "skipped", s->skipped);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        cJSON_AddNumberToObject(line, times[i].name, times[i].value);
    char *text = cJSON_PrintUnformatted(line);
    cJSON_Delete(line);
    if (!text)
        return fail(error, ZDS_ERR_MEMORY, "there is no memory for the metrics");
    bool good = fprintf(r->metrics, "%s\n", text) > 0 && fflush(r->metrics) == 0;
    cJSON_free(text);
    return good ? ZDS_OK
                : fail(error, ZDS_ERR_IO, "%s: cannot be written: %s", r->path, strerror(errno));
}

static void print_left(double seconds)
{
    long s = lround(seconds);
    if (s >= 3600)
        fprintf(stderr, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        fprintf(stderr, "%ld:%02ld", s / 60, s % 60);
}

static void print_progress(report *r, const zds_step_result *s, double seconds, double tokens)
{
    bool last = r->steps == r->total;
    r->unlogged += s->loss;
    r->unlogged_count++;
    if (!r->terminal && r->steps % r->logging_steps && !last)
        return;
    double loss = r->terminal ? s->loss : r->unlogged / (double)r->unlogged_count;
    double each = r->steps > 1 ? r->seconds / (double)(r->steps - 1) : seconds;
    fprintf(stderr, "%sstep %lld/%lld  loss ", r->terminal ? "\r" : "", (long long)r->steps,
            (long long)r->total);
    if (isnan(loss)) /* without its sign */
        fputs("nan", stderr);
    else
        fprintf(stderr, "%.4f", loss);
    fprintf(stderr, "  rate %.3g  %.0f tokens/s", s->next_lr, tokens / each);
    if (!last) {
        fprintf(stderr, "  left ");
        print_left(each * (double)(r->total - r->steps));
    }
    if (s->skipped)
        fprintf(stderr, "  skipped: a gradient was not finite");
    fprintf(stderr, r->terminal ? "\033[K" : "\n");
    fflush(stderr);
    r->line_open = r->terminal;
    r->unlogged = 0;
    r->unlogged_count = 0;
}

zds_status report_step(report *r, const zds_step_result *result, double seconds, double tokens,
                       zds_error *error)
{
    r->losses[r->steps++] = result->loss;
    if (r->steps > 1)
        r->seconds += seconds;
    print_progress(r, result, seconds, tokens);
    return write_metrics(r, result, seconds, tokens, error);
}

void report_pause(report *r)
{
    if (r->line_open)
        fputc('\n', stderr);
    r->line_open = false;
}

/* Gives the file its name. */
static bool name_metrics(const report *r)
{
    char own[64];
    snprintf(own, sizeof own, "/proc/self/fd/%d", fileno(r->metrics));
    unlink(r->path); /* of a run that was killed where files must have names */
    return linkat(AT_FDCWD, own, AT_FDCWD, r->path, AT_SYMLINK_FOLLOW) == 0;
}

zds_status report_finish(report *r, zds_error *error)
{
    report_pause(r);
    bool good = fsync(fileno(r->metrics)) == 0;
    good = good && (!r->nameless || name_metrics(r));
    good = fclose(r->metrics) == 0 && good;
    r->metrics = NULL;
    if (good && r->final_path)
        good = rename(r->path, r->final_path) == 0;
    return good ? ZDS_OK
                : fail(error, ZDS_ERR_IO, "%s: cannot be written: %s", r->path, strerror(errno));
}

void report_destroy(report *r)
{
    report_pause(r);
    if (r->metrics) {
        fclose(r->metrics);
        if (!r->nameless && (r->steps == 0 || r->final_path))
            unlink(r->path);
    }
    free(r->path);
    free(r->final_path);
    free(r->losses);
}

static void print_value(FILE *out, const char *name, double value)
{
    if (!isnan(value))
        fprintf(out, "  %s %g", name, value);
}

void report_groups(const zds_engine *engine, FILE *out)
{
    zds_group_info g = {.struct_size = sizeof g};
    for (size_t i = 0; zds_group(engine, i, &g); i++) {
        fprintf(out, "group %u: %u parameters of %llu elements", g.declared, g.params,
                (unsigned long long)g.elements);
        print_value(out, "rate", g.hyper.lr);
        print_value(out, "beta1", g.hyper.beta1);
        print_value(out, "beta2", g.hyper.beta2);
        print_value(out, "momentum", g.hyper.momentum);
        print_value(out, "weight decay", g.hyper.weight_decay);
        fputc('\n', out);
    }
}

static void print_bytes(FILE *out, const char *name, const char *tier, double bytes,
                        const char *note)
{
    fprintf(out, "  %-28s %-6s %10.1f MiB%s\n", name, tier, bytes / 0x1p20, note);
}

void report_memory(const zds_engine *engine, size_t model_bytes, FILE *out)
{
    zds_memory_row row;
    struct rusage usage;
    fprintf(out, "memory of rank %d:\n", zds_rank(engine));
    for (size_t i = 0; zds_memory_report(engine, i, &row); i++) {
        char note[64] = "";
        if (row.shared)
            snprintf(note, sizeof note, "  of which %.1f shared by the node's ranks",
                     (double)row.shared / 0x1p20);
        print_bytes(out, row.purpose, row.tier, (double)row.bytes, note);
    }
    print_bytes(out, "activations and scratch", "host", (double)model_bytes, "");
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        print_bytes(out, "process, at its peak", "host", (double)usage.ru_maxrss * 1024, "");
}
