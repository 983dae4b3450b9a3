/* Filling in a zds_error from a program. */
#include "common/fail.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "zds/zds.h"

zds_status fail(zds_error *error, zds_status status, const char *format, ...)
{
    if (!error)
        return status;
    char *text = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    free(error->text); /* after formatting: the arguments may point into the old text */
    error->status = status;
    error->text = text;
    return status;
}

zds_status fail_tell(zds_engine *engine, zds_status status, const zds_error *error)
{
    if (engine && status)
        (void)zds_fail(engine, status, "%s", error->text ? error->text : zds_status_name(status));
    return status;
}
