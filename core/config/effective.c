/* The effective form: the resolved tree read row by row, every value typed and defaulted. */
#include <stdio.h>
#include <string.h>

#include "config/internal.h"

enum { PATH_MAX_LENGTH = 320, NAME_SHOWN = 80 };

/* "section.name", with a name that is too long cut short. */
static void join(char *path, size_t size, const char *section, const char *name)
{
    snprintf(path, size, "%s%s%.*s", section, *section ? "." : "", NAME_SHOWN, name);
}

static void wrong_value(zds_config *c, const field *f, const char *path, const cJSON *node,
                        const char *wrong)
{
    char shown[128], expects[256];
    tree_show(node, shown, sizeof shown);
    field_expects(f, expects, sizeof expects);
    problem_add_node(c, ZDS_PROBLEM_ERROR,
                     f->flags & FIELD_TYPED ? ZDS_CHECK_DEEPSPEED : ZDS_CHECK_ZDS, path, node,
                     false, "%s %s; write %s%s", shown, wrong, expects,
                     source_is_quoteless(c->src, node)
                         ? " (without quotes a string runs to the end of its line, comma included)"
                         : "");
}

/* "auto" that nothing filled: dropped by DeepSpeed in typed sections, kept as a string elsewhere.
 */
static void leftover_auto(zds_config *c, const field *f, const char *path)
{
    if (f->auto_from && !c->arguments)
        problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, path,
                    "\"auto\" is filled from training arguments (%s), and there are none here; "
                    "write the value",
                    f->auto_from);
    else
        problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, path,
                    "nothing fills \"auto\" here; write the value, or delete the key for the "
                    "default (%s)",
                    f->fallback ? f->fallback : "null");
}

static void read_section(zds_config *c, const cJSON *object, int row, const char *path);

/* A section under its old name: read unless the new one is there. */
static void read_old_section(zds_config *c, const cJSON *node, const field *f, const char *path)
{
    const cJSON *newer = tree_find(c->resolved, f->successor);
    if (!newer || cJSON_IsNull(newer))
        read_section(c, node, field_find_path(&c->index, f->successor), path);
}

/* A value without its section: {"enabled": true} for true, {"device": "cpu"} for "cpu". That is the
 * switch, or the first key, of the section. False if it does not take the value. */
static bool as_section(const zds_config *c, const field *f, const cJSON *node, char *text,
                       size_t size)
{
    char shown[64];
    int row = field_find(&c->index, f, "enabled");
    const field *key = row >= 0 && cJSON_IsBool(node) ? field_at((size_t)row) : field_first_of(f);
    value scratch = {0};
    if (!key || cJSON_IsNull(node) || cJSON_IsArray(node) ||
        (tree_is_auto(node) ? !key->auto_from : value_read(key, node, &scratch) != NULL))
        return false;
    tree_show(node, shown, sizeof shown);
    snprintf(text, size, "{\"%s\": %s}", field_name(key), shown);
    return true;
}

/* What the Trainer says of it is told here, with what to write. */
static void no_section(zds_config *c, const field *f, const char *path, const cJSON *node)
{
    char expects[256], shown[128];
    int32_t check = problem_retract(c, path) ? ZDS_CHECK_ARGUMENTS : ZDS_CHECK_DEEPSPEED;
    tree_show(node, shown, sizeof shown);
    if (!as_section(c, f, node, expects, sizeof expects))
        field_expects(f, expects, sizeof expects);
    problem_add_node(c, ZDS_PROBLEM_ERROR, check, path, node, false,
                     "%s is not a section; write %s, or delete the key", shown, expects);
}

static void read_key(zds_config *c, const cJSON *node, int row, const char *path);

static void read_section_key(zds_config *c, const cJSON *node, int row, const char *path)
{
    const field *f = field_at((size_t)row);
    value *v = &c->values[row];
    if (f->flags & FIELD_OR_BOOL && cJSON_IsBool(node)) {
        v->boolean = cJSON_IsTrue(node); /* what it means is for effective_rules */
        return;
    }
    if (f->flags & FIELD_OR_TYPE && cJSON_IsString(node)) {
        v->null = false;
        read_key(c, node, field_find(&c->index, f, "type"), path);
        return;
    }
    if (!cJSON_IsObject(node)) {
        v->bad = true;
        no_section(c, f, path, node);
        return;
    }
    v->null = false;
    if (f->support == FIELD_DEPRECATED)
        read_old_section(c, node, f, path);
    else if (!(f->flags & FIELD_OPEN))
        read_section(c, node, row, path);
}

/* The sections of an array, by their numbers from 0. */
static void read_sections(zds_config *c, const cJSON *array, const field *f, const char *path)
{
    const cJSON *item;
    char name[24], child[PATH_MAX_LENGTH];
    size_t i = 0;
    cJSON_ArrayForEach(item, array)
    {
        snprintf(name, sizeof name, "%zu", i++);
        join(child, sizeof child, path, name);
        read_key(c, item, field_find(&c->index, f, name), child);
    }
}

static void read_key(zds_config *c, const cJSON *node, int row, const char *path)
{
    const field *f = field_at((size_t)row);
    value *v = &c->values[row];
    bool in_map = strchr(f->path, '*') != NULL; /* such rows have no effective value */
    value scratch = {0};
    if (in_map) {
        v = &scratch;
    } else if (v->node) {
        problem_add_key(
            c, ZDS_PROBLEM_ERROR, f->flags & FIELD_TYPED ? ZDS_CHECK_DEEPSPEED : ZDS_CHECK_ZDS,
            path, "is another spelling of %s, which is there too; delete one of them", f->path);
        return;
    }
    v->node = node;
    if (f->support == FIELD_REMOVED) {
        problem_add_node(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_DEEPSPEED, path, node, true, "%s",
                         f->reason ? f->reason : "removed from DeepSpeed; delete the key");
        return;
    }
    if (tree_is_auto(node) && !(f->flags & FIELD_OR_AUTO) && f->type != FIELD_STRING &&
        f->type != FIELD_ANY) {
        v->bad = true;
        bool told = problem_is_told(c, path);
        if (f->type == FIELD_OBJECT && (!(f->flags & FIELD_TYPED) || told))
            no_section(c, f, path, node);
        else if (!told)
            leftover_auto(c, f, path);
        return;
    }
    if (cJSON_IsNull(node) && f->flags & FIELD_NULLABLE) {
        v->null = f->type != FIELD_OBJECT || !f->fallback; /* a section: as if it were absent */
        return;
    }
    if (f->type == FIELD_OBJECT) {
        read_section_key(c, node, row, path);
        return;
    }
    value read = {.node = node};
    const char *wrong = value_read(f, node, &read);
    if (wrong &&
        !(f->flags & FIELD_OR_TIER && cJSON_IsString(node) && config_tier(c, node->valuestring))) {
        v->bad = true;
        wrong_value(c, f, path, node, wrong);
        return;
    }
    *v = read;
    if (f->type == FIELD_SECTIONS)
        read_sections(c, node, f, path);
}

static void read_section(zds_config *c, const cJSON *object, int row, const char *path)
{
    const field *section = row < 0 ? NULL : field_at((size_t)row);
    const cJSON *item;
    cJSON_ArrayForEach(item, object)
    {
        char child[PATH_MAX_LENGTH];
        join(child, sizeof child, path, item->string);
        int found = field_find(&c->index, section, item->string);
        if (found < 0)
            stray_add(c, section, child, item);
        else
            read_key(c, item, found, child);
    }
}

void effective_fill(zds_config *c)
{
    size_t count = field_count();
    for (size_t i = 0; i < count; i++)
        value_default(field_at(i), &c->values[i]);
    read_section(c, c->resolved, -1, "");
}

const value *value_of(const zds_config *c, const char *path)
{
    return &c->values[field_find_path(&c->index, path)];
}
