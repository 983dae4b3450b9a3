/* What the config or the program asks for and an engine refuses, told at the key it is about. */
#include <stdlib.h>

#include "config/internal.h"
#include "engine/internal.h"
#include "host/error.h"

zds_status engine_refuse(const zds_engine *e, zds_status status, const char *path, zds_error *error,
                         const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *message = text_formatv(format, args);
    va_end(args);
    if (!message)
        return error_set(error, ZDS_ERR_MEMORY, "out of memory");
    if (e->refused) {
        e->refused(e->refused_user, path, message);
    } else {
        char *line = problem_line(e->config, path, message);
        error_set(error, status, "%s", line ? line : message);
        free(line);
    }
    free(message);
    return status;
}
