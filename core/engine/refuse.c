/* What the config or the program asks for and an engine refuses, told at the key it is about. */
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/error.h"

void engine_note(zds_engine *e, const char *path, const char *message)
{
    config_note(e->config, &e->found, ZDS_PROBLEM_ERROR, path, message);
}

zds_status engine_tell(zds_engine *e, zds_status status, const char *intro, zds_error *error)
{
    if (e->sample)
        return status;
    char *text = e->found.failed ? NULL : problems_text(&e->found);
    if (text)
        error_set(error, status, "%s%.*s", intro, (int)strlen(text) - 1, text);
    else
        status = error_set(error, ZDS_ERR_MEMORY, "out of memory");
    free(text);
    problems_clear(&e->found);
    return status;
}

static zds_status refuse(zds_engine *e, zds_status status, const char *path, zds_error *error,
                         const char *format, va_list args)
{
    char *message = text_formatv(format, args);
    if (message)
        engine_note(e, path, message);
    else
        e->found.failed = true;
    free(message);
    return engine_tell(e, status, "", error);
}

zds_status engine_refuse(zds_engine *e, zds_status status, const char *path, zds_error *error,
                         const char *format, ...)
{
    va_list args;
    va_start(args, format);
    status = refuse(e, status, path, error, format, args);
    va_end(args);
    return status;
}

zds_status engine_refuse_in(zds_engine *e, zds_status status, const char *section, const char *why,
                            zds_error *error, const char *format, ...)
{
    va_list args;
    char path[256];
    config_path_in(e->config, section, why, path, sizeof path);
    va_start(args, format);
    status = refuse(e, status, path, error, format, args);
    va_end(args);
    return status;
}
