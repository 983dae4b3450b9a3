/* What is wrong with a plugin, as text. */
#include "plugin/fault.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/error.h"

static char no_memory[] = "cannot be used: there is no memory for it";

char *fault_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = text_formatv(format, args);
    va_end(args);
    return text ? text : no_memory;
}

char *fault_no_memory(void)
{
    return no_memory;
}

bool fault_is_memory(const char *fault)
{
    return fault == no_memory;
}

void fault_free(char *fault)
{
    if (fault != no_memory)
        free(fault);
}

const char *fault_of_loader(const char *path)
{
    const char *text = dlerror();
    size_t length = strlen(path);
    if (!text)
        return "the loader does not say why";
    if (strncmp(text, path, length) != 0 || strncmp(text + length, ": ", 2) != 0)
        return text;
    text += length + 2;
    /* What the loader says of libraries for other processors, which it passes over. */
    if (strcmp(text, "cannot open shared object file: No such file or directory") == 0 &&
        access(path, F_OK) == 0)
        return "is no library for this kind of processor";
    return text;
}
