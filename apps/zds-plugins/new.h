/* zds-plugins --new KIND NAME [DIR] */
#ifndef ZDS_PLUGINS_NEW_H
#define ZDS_PLUGINS_NEW_H

/* Writes a plugin that works into a folder that must not be there yet; NULL: one of the plugin's
 * name. Returns the program's exit code. */
int new_plugin(const char *kind, const char *name, const char *folder);

#endif
