/* Filling in the caller's zds_error, and the names of status codes. */
#include "host/error.h"

#include <stdio.h>
#include <stdlib.h>

const char *zds_status_name(zds_status status)
{
    static const char *const names[] = {
        "ok",        "invalid",        "config",        "mismatch",      "unsupported",
        "not found", "plugin",         "out of memory", "input/output",  "format",
        "peer lost", "ranks disagree", "overflow",      "internal error"};
    return status >= 0 && (size_t)status < sizeof names / sizeof *names ? names[status] : "unknown";
}

char *text_formatv(const char *format, va_list args)
{
    char *text = NULL;
    return vasprintf(&text, format, args) < 0 ? NULL : text;
}

char *text_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = text_formatv(format, args);
    va_end(args);
    return text;
}

zds_status error_setv(zds_error *error, zds_status status, const char *format, va_list args)
{
    if (error) {
        char *text = text_formatv(format, args); /* before freeing: args may point into the old */
        free(error->text);
        error->status = status;
        error->text = text;
    }
    return status;
}

zds_status error_set(zds_error *error, zds_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    error_setv(error, status, format, args);
    va_end(args);
    return status;
}

void zds_error_clear(zds_error *error)
{
    if (error) {
        free(error->text);
        error->status = ZDS_OK;
        error->text = NULL;
    }
}

void text_append(char **list, const char *separator, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *item = text_formatv(format, args);
    va_end(args);
    char *longer =
        item ? text_format("%s%s%s", *list ? *list : "", *list ? separator : "", item) : NULL;
    free(item);
    if (longer) {
        free(*list);
        *list = longer;
    }
}

zds_status failure_set(failure *f, zds_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = text_formatv(format, args); /* before freeing: args may point into the old */
    va_end(args);
    free(f->text);
    f->text = text;
    return status;
}

void failure_clear(failure *f)
{
    free(f->text);
    f->text = NULL;
}
