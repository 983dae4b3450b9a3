/* Data on stdout, talk on stderr. */
#include "common/output.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int output_json(cJSON *tree)
{
    char *text = tree ? cJSON_Print(tree) : NULL;
    cJSON_Delete(tree);
    if (!text)
        return output_error("there is no memory for the output");
    puts(text);
    cJSON_free(text);
    return output_end();
}

int output_end(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_DONE;
    return output_error("cannot write to stdout: %s", strerror(errno));
}

int output_error(const char *format, ...)
{
    va_list args;
    char *text = NULL;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    /* at once, so that ranks do not write into each other's lines */
    fprintf(stderr, "%s: error: %s\n", program_invocation_short_name,
            text ? text : "there is no memory for its text");
    free(text);
    return EXIT_FAILED;
}
