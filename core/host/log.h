/* One line at a time to the program's sink, or to stderr. */
#ifndef CORE_HOST_LOG_H
#define CORE_HOST_LOG_H

#include <stdarg.h>

#include "zds/plugin.h"

/* `rank` < 0 and `source` NULL are left out of the line. */
void log_line(int32_t level, int32_t rank, const char *source, const char *format, ...)
    ZDS_PRINTF(4, 5);
void log_linev(int32_t level, int32_t rank, const char *source, const char *format, va_list args);

#endif
