/* Where this zds is installed, and which files may be opened at all. */
#ifndef CORE_PLUGIN_PLACE_H
#define CORE_PLUGIN_PLACE_H

#include <stdbool.h>

/* The folder that holds plugins/ and zds-plugin-probe, without a / at its end: zds/ beside the file
 * that `code` is in, libzds.so; or, since that may be a program which holds the core itself, beside
 * that or in ../lib. NULL if there is none, or no memory, which errno ENOMEM tells. The caller
 * frees it. */
char *place_install(const void *code);

/* Why `path` (a file, or a folder of plugins) must not be used, as a fault; NULL if it may:
 * it, what it links to and the folders of both belong to root or to this user, and nobody else can
 * write them. Of what the install itself holds (`installed`), whoever can write libzds.so may be
 * the owner or write too: that guards nothing. */
char *place_fault(const char *path, bool installed);

#endif
