/* A source from a path, text, or base64 of text. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/source.h"
#include "host/error.h"

/* A whole file, or NULL with errno; EFBIG if it is longer than any config. */
static char *read_file(const char *path, size_t *length)
{
    FILE *in = fopen(path, "rbe");
    struct stat info;
    char *text = NULL;
    if (!in)
        return NULL;
    int why = 0;
    if (fstat(fileno(in), &info) != 0) {
        why = errno;
    } else if (S_ISDIR(info.st_mode)) {
        why = EISDIR;
    } else if ((text = malloc(SOURCE_MAX_BYTES + 2)) == NULL) {
        why = ENOMEM;
    } else {
        *length = fread(text, 1, SOURCE_MAX_BYTES + 1, in);
        why = ferror(in) ? EIO : 0;
    }
    fclose(in);
    if (why) {
        free(text);
        text = NULL;
        errno = why;
    }
    return text;
}

/* Decodes URL-safe base64 (the plain alphabet and missing padding are taken too); NULL if it is
 * none. */
static char *decode_base64(const char *text, size_t *length)
{
    size_t n = strlen(text), bits = 0, used = 0;
    char *out = malloc(n / 4 * 3 + 4);
    uint32_t buffer = 0;
    if (!out)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        int six = c >= 'A' && c <= 'Z'   ? c - 'A'
                  : c >= 'a' && c <= 'z' ? c - 'a' + 26
                  : c >= '0' && c <= '9' ? c - '0' + 52
                  : c == '-' || c == '+' ? 62
                  : c == '_' || c == '/' ? 63
                                         : -1;
        if (six < 0) {
            if ((c == '=' && i + 2 >= n) || c == '\n')
                continue;
            free(out);
            return NULL;
        }
        buffer = buffer << 6 | (uint32_t)six;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            out[used++] = (char)(buffer >> bits);
        }
    }
    *length = used;
    return out;
}

zds_status source_load(const char *from, const char *inline_name, source **src, zds_error *error)
{
    size_t length = 0;
    zds_status status;
    const char *start = from + strspn(from, " \t\r\n");
    if (!*start)
        return error_set(error, ZDS_ERR_NOT_FOUND,
                         "nothing is given where a path, JSON text or base64 of JSON text belongs");
    if (*start == '{')
        return source_parse(inline_name, from, strlen(from), src, error);
    char *text = strlen(from) < 4096 ? read_file(from, &length) : NULL;
    int why = errno;
    if (text) {
        status = source_parse(from, text, length, src, error);
    } else if ((text = decode_base64(from, &length)) != NULL && length > 0 &&
               memchr(text, '{', length)) {
        status = source_parse("<base64>", text, length, src, error);
    } else if (strlen(from) >= 4096 || why == ENAMETOOLONG) {
        status = error_set(error, ZDS_ERR_NOT_FOUND,
                           "%.60s...: neither a file, nor JSON, nor base64 of JSON", from);
    } else {
        status = error_set(error, why == ENOENT ? ZDS_ERR_NOT_FOUND : ZDS_ERR_IO,
                           "%s: %s (a config is a file, JSON text or base64 of JSON text)", from,
                           strerror(why));
    }
    free(text);
    return status;
}

zds_status source_load_arguments(const char *from, source **src, zds_error *error)
{
    zds_status status = source_load(from, "<arguments>", src, error);
    if (status)
        return status;
    const char *text = source_text(*src, NULL);
    char first = text[strspn(text, " \t\r\n")];
    if (first && strchr("{/#\xef", first)) /* or a comment, or a mark of UTF-8 */
        return ZDS_OK;
    status = error_set(error, ZDS_ERR_FORMAT,
                       "%s:1:1: error: training arguments are a JSON object: { ... }",
                       source_name(*src));
    source_destroy(*src);
    *src = NULL;
    return status;
}
