/* Status codes and error texts: what every function of zds that can fail returns, and how to read
 * why.
 *
 * A function that fails changes nothing that its caller can see unless its own comment says
 * otherwise. The text of an error names the thing (file:line, key, plugin, rank, path), says what
 * is wrong with it and what to do. */
#ifndef ZDS_STATUS_H
#define ZDS_STATUS_H

#include <stdint.h>

/* Around the declarations of every public header: C linkage, and visible although the library is
 * built hidden. */
#ifdef __cplusplus
#define ZDS_EXTERN_C_BEGIN extern "C" {
#define ZDS_EXTERN_C_END   }
#else
#define ZDS_EXTERN_C_BEGIN
#define ZDS_EXTERN_C_END
#endif
#if defined(__GNUC__)
#define ZDS_BEGIN_DECLS _Pragma("GCC visibility push(default)") ZDS_EXTERN_C_BEGIN
#define ZDS_END_DECLS   ZDS_EXTERN_C_END _Pragma("GCC visibility pop")
#else
#define ZDS_BEGIN_DECLS ZDS_EXTERN_C_BEGIN
#define ZDS_END_DECLS   ZDS_EXTERN_C_END
#endif

ZDS_BEGIN_DECLS

typedef int32_t zds_status;

enum {
    ZDS_OK = 0,
    ZDS_ERR_INVALID = 1,     /* an argument out of range, or a call out of order */
    ZDS_ERR_CONFIG = 2,      /* the ds_config has problems */
    ZDS_ERR_MISMATCH = 3,    /* the ds_config and the training arguments disagree */
    ZDS_ERR_UNSUPPORTED = 4, /* understood, but not possible here; the text says why */
    ZDS_ERR_NOT_FOUND = 5,   /* no such file, plugin, key or parameter */
    ZDS_ERR_PLUGIN = 6,      /* a plugin was refused, or failed */
    ZDS_ERR_MEMORY = 7,      /* an allocation failed */
    ZDS_ERR_IO = 8,          /* the operating system refused to open, read, write, map or sync */
    ZDS_ERR_FORMAT = 9, /* a file is truncated, malformed, or does not match what it is used for */
    ZDS_ERR_PEER = 10,  /* another rank died, or did not answer within the timeout */
    ZDS_ERR_DIVERGED = 11, /* ranks disagree: on the config, the model, or the order of calls */
    ZDS_ERR_OVERFLOW = 12, /* fp16 overflow at the minimal loss scale: training cannot go on */
    ZDS_ERR_INTERNAL = 13  /* a fault in zds itself: please report it */
};

/* A short English name of a status ("ok", "invalid", ...). Never NULL. */
const char *zds_status_name(zds_status status);

/* Where a function without an object to ask puts its error. Start with ZDS_ERROR_INIT; the callee
 * replaces the content when it fails and leaves it alone when it succeeds. `text` belongs to the
 * struct: free it with zds_error_clear. Wherever a zds_error * is taken, NULL is allowed. */
typedef struct zds_error {
    zds_status status;
    char *text; /* NULL while status is ZDS_OK */
} zds_error;

#define ZDS_ERROR_INIT                                                                             \
    {                                                                                              \
        0, 0                                                                                       \
    }

void zds_error_clear(zds_error *error);

ZDS_END_DECLS
#endif
