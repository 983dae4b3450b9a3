/* zds-plugins --new KIND NAME [DIR]: copies the templates beside the install's plugins, with the
 * name filled in. */
#include "new.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/args.h"
#include "common/output.h"
#include "host/error.h"
#include "plugin/place.h"
#include "zds/zds.h"

enum { LONGEST_NAME = 63, LONGEST_TEMPLATE = 1 << 16 };

/* What the marks in a template stand for. */
typedef struct marks {
    const char *kind, *name;
    char ident[LONGEST_NAME + 1]; /* the name as files and targets are called */
} marks;

static bool is_name(const char *name)
{
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '_' && *c != '-')
            return false;
    return isalpha((unsigned char)name[0]) && strlen(name) <= LONGEST_NAME;
}

static marks make_marks(const char *kind, const char *name)
{
    marks m = {.kind = kind, .name = name};
    for (size_t i = 0; name[i]; i++)
        m.ident[i] = name[i] == '-' ? '_' : (char)tolower((unsigned char)name[i]);
    return m;
}

static void put_marked(FILE *out, const char *text, const marks *m)
{
    const struct {
        const char *mark, *value;
    } all[] = {{"@KIND@", m->kind}, {"@NAME@", m->name}, {"@IDENT@", m->ident}};
    while (*text) {
        size_t found = 0;
        while (found < 3 && strncmp(text, all[found].mark, strlen(all[found].mark)) != 0)
            found++;
        if (found < 3) {
            fputs(all[found].value, out);
            text += strlen(all[found].mark);
        } else {
            putc(*text++, out);
        }
    }
}

/* Returns NULL with errno set if the template cannot be read as a whole. */
static char *read_template(const char *path)
{
    FILE *in = fopen(path, "r");
    char *text = in ? calloc(1, LONGEST_TEMPLATE) : NULL;
    size_t got = text ? fread(text, 1, LONGEST_TEMPLATE - 1, in) : 0;
    if (in)
        fclose(in);
    if (got)
        return text;
    free(text);
    return NULL;
}

/* Writes `to` from the template at `from`. Returns an exit code after telling what failed. */
static int write_file(const char *from, const char *to, const marks *m)
{
    char *text = read_template(from);
    if (!text)
        return output_error("%s: cannot be read: %s; install zds whole", from, strerror(errno));
    FILE *out = fopen(to, "wx");
    if (out)
        put_marked(out, text, m);
    bool good = out && !ferror(out);
    good = out && fclose(out) == 0 && good;
    free(text);
    return good ? EXIT_DONE : output_error("%s: cannot be written: %s", to, strerror(errno));
}

/* The three files of a plugin. On failure none is left. */
static int write_all(const char *templates, const char *folder, const marks *m)
{
    char *from[] = {text_format("%s/%s/plugin.c", templates, m->kind),
                    text_format("%s/%s/README.md", templates, m->kind),
                    text_format("%s/CMakeLists.txt", templates)};
    char *to[] = {text_format("%s/%s.c", folder, m->ident), text_format("%s/README.md", folder),
                  text_format("%s/CMakeLists.txt", folder)};
    int code = EXIT_DONE;
    for (int i = 0; i < 3 && code == EXIT_DONE; i++)
        code = from[i] && to[i] ? write_file(from[i], to[i], m)
                                : output_error("no memory for the names of files");
    for (int i = 0; i < 3; i++) {
        if (code != EXIT_DONE && to[i])
            unlink(to[i]);
        free(from[i]);
        free(to[i]);
    }
    return code;
}

static bool is_among(const char *name, const char *aliases)
{
    const size_t length = strlen(name);
    for (const char *at = aliases; *at; at += strspn(at, ", ")) {
        const size_t end = strcspn(at, ", ");
        if (end == length && strncasecmp(at, name, length) == 0)
            return true;
        at += end;
    }
    return false;
}

/* Whether the entry, one of the install's own, has the new plugin's name or that of its file. */
static bool is_taken(const zds_plugin_entry *entry, const char *install, const marks *m)
{
    const size_t length = strlen(install);
    char *file = text_format("/%s_%s.so", m->kind, m->ident);
    const char *slash = strrchr(entry->file, '/');
    const bool own = strncmp(entry->file, install, length) == 0 && entry->file[length] == '/';
    const bool same =
        (file && slash && strcmp(slash, file) == 0) ||
        (strcmp(entry->kind, m->kind) == 0 &&
         (strcasecmp(entry->name, m->name) == 0 || is_among(m->name, entry->aliases)));
    free(file);
    return own && same;
}

/* What is installed beside zds's own plugins must not take their place. */
static int refuse_taken(const char *install, const marks *m)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_plugin_list *list;
    zds_plugin_entry entry;
    int code = EXIT_DONE;
    if (zds_plugin_list_create(NULL, &list, &error)) {
        code = output_error("%s", error.text);
        zds_error_clear(&error);
        return code;
    }
    for (size_t i = 0; code == EXIT_DONE && zds_plugin_list_entry(list, i, &entry); i++)
        if (is_taken(&entry, install, m))
            code = output_error("zds has a plugin %s of kind %s already, in %s, which the new one "
                                "would replace when it is installed; take another name",
                                entry.name, m->kind, entry.file);
    zds_plugin_list_destroy(list);
    return code;
}

int new_plugin(const char *kind, const char *name, const char *folder)
{
    if (strcmp(kind, "comm") == 0)
        return output_error("there is no template for comm: a backend is what it connects; start "
                            "from plugins/comm/self of zds's source, and docs/plugins.md");
    if (strcmp(kind, "optim") != 0 && strcmp(kind, "sched") != 0 && strcmp(kind, "offload") != 0)
        return args_wrong("--new makes optim, sched or offload, not \"%s\"", kind);
    if (!is_name(name))
        return args_wrong("a plugin's name is a letter and up to %d letters, digits, _ and -, not "
                          "\"%s\"",
                          LONGEST_NAME - 1, name);
    const marks m = make_marks(kind, name);
    folder = folder ? folder : m.name;
    char *install = place_install(dlsym(RTLD_DEFAULT, "zds_version"));
    if (!install)
        return output_error("zds/templates is not beside libzds.so; install zds whole");
    int code = refuse_taken(install, &m);
    char *templates = text_format("%s/templates", install);
    free(install);
    if (code == EXIT_DONE && !templates)
        code = output_error("no memory for the names of files");
    if (code != EXIT_DONE) {
        free(templates);
        return code;
    }
    if (mkdir(folder, 0755) != 0) { /* also if it is there: nothing is overwritten */
        code = output_error("%s: cannot be made: %s", folder, strerror(errno));
    } else {
        code = write_all(templates, folder, &m);
        if (code != EXIT_DONE)
            rmdir(folder);
    }
    free(templates);
    if (code != EXIT_DONE)
        return code;
    printf("%s: a plugin of kind %s that works as it is; %s/README.md says how to build and check "
           "it\n",
           folder, kind, folder);
    return output_end();
}
